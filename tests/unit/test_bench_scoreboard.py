"""The benchmarks' scoreboard: pointers into results, and verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from bench.scoreboard import HEAD, row, rows, value

RESULT = {"device": "a GPU", "date": "2026-11-25T10:00:00", "command": "run", "ours": 10.0, "plain": [4.0, 2.0]}
GOAL = {"page": "retrieval", "what": "rate", "format": "{:.1f} times", "now": "/ours", "over": "/plain/1"}


def test_a_pointer_names_a_value() -> None:
    assert value({"a/b": [1, {"c~d": 2}]}, "/a~1b/1/c~0d") == 2
    with pytest.raises(LookupError):
        value({"a": [1]}, "/a/1")


@pytest.mark.parametrize(
    ("goal", "shown", "verdict"),
    [
        ({"at_least": 5}, "≥ 5.0 times", "met"),
        ({"above": 5}, "> 5.0 times", "**missed**"),
        ({"at_most": 5}, "≤ 5.0 times", "met"),
        ({"below": 5}, "< 5.0 times", "**missed**"),
        ({}, "", ""),
    ],
)
def test_a_figure_meets_its_goal(goal: dict[str, float], shown: str, verdict: str) -> None:
    found = dict(zip(HEAD, row({**GOAL, **goal}, RESULT), strict=True))
    assert (found["goal"], found["now"], found[""]) == (shown, "5.0 times", verdict)
    assert (found["device"], found["date"]) == ("a GPU", "2026-11-25")


@pytest.mark.parametrize("result", [None, {**RESULT, "ours": None}])
def test_a_goal_without_a_result_has_not_been_measured(result: dict[str, Any] | None) -> None:
    found = dict(zip(HEAD, row({**GOAL, "at_least": 5}, result), strict=True))
    assert (found["goal"], found["now"], found[""]) == ("≥ 5.0 times", "", "not measured")


def test_a_part_of_the_results_may_have_its_own_device() -> None:
    found = row({**GOAL, "run": "/part"}, {**RESULT, "part": {"device": "another"}})
    assert "another" in found


def test_every_recorded_goal_has_its_figure() -> None:
    assert len(rows()) > 10
