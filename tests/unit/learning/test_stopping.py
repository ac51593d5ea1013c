"""Runs that no longer learn end by themselves, and say why."""

import json
from pathlib import Path
from typing import Any

import pytest

from common import run_config
from common.run_config import StopConfig
from learning.stopping import reason_to_stop


def steps(name: str, *values: float) -> list[dict[str, float]]:
    return [{f"search/{name}": value} for value in values]


@pytest.mark.parametrize(
    ("rules", "name", "values", "broken"),
    [
        ({"mixed_groups": 0.2}, "mixed_groups", [0.5, 0.1, 0.1], "stop.mixed_groups: the samples of only 10%"),
        ({"mixed_groups": 0.2}, "mixed_groups", [0.1, 0.1, 0.4], ""),
        ({"mixed_groups": 0.2}, "mixed_groups", [0.0], ""),  # not a whole window yet
        (
            {"choice_entropy": 0.1},
            "choice_entropy",
            [0.7, 0.05, 0.05],
            "stop.choice_entropy: the first choice has 0.05",
        ),
        ({"choice_entropy": 0.1}, "choice_entropy", [0.05, 0.2, 0.2], ""),
        ({"coverage_rise": 0.03}, "coverage", [0.5, 0.5, 0.9, 0.9, 0.52, 0.52], "from 50.0% to 52.0% in 4 steps"),
        ({"coverage_rise": 0.03}, "coverage", [0.5, 0.5, 0.1, 0.1, 0.54, 0.54], ""),
        ({"coverage_rise": 0.03}, "coverage", [0.5, 0.5, 0.5, 0.5, 0.5], ""),  # four steps ago there was no window
        ({}, "mixed_groups", [0.0] * 9, ""),
        ({"mixed_groups": 0.2, "coverage_rise": 0.03}, "reward", [0.0] * 9, ""),
    ],
)
def test_rules(rules: dict[str, Any], name: str, values: list[float], broken: str) -> None:
    reason = reason_to_stop(steps(name, *values), StopConfig(**rules, window=2, coverage_steps=4))
    assert broken in reason
    assert bool(reason) == bool(broken)


@pytest.mark.parametrize(
    ("config", "curves", "learned"),
    [
        ("universe", "universe-gpu.json", {"first": 77, "second, from step 20 of the first": 54}),
        ("multihop", "multihop-reinforcement-gpu.json", {"seed 1": 80, "seed 2": 75}),
    ],
)
def test_the_rules_of_a_run_would_not_have_ended_those_that_learned(
    config: str, curves: str, learned: dict[str, int]
) -> None:
    rules = run_config.load(config).stop
    runs = json.loads((Path("bench/results") / curves).read_bytes())["runs"]
    for name, count in learned.items():
        recorded = runs[name] if isinstance(runs[name], list) else runs[name]["steps"]
        done = [{f"search/{figure}": value for figure, value in step.items()} for step in recorded[:count]]
        assert len(done) == count
        assert not any(reason_to_stop(done[:end], rules) for end in range(1, count + 1))
