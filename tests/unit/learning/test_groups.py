"""Figures of the samples of one question."""

import math

import pytest

from learning.groups import entropy, first_choice, mixed
from search_agent.types import Passage, StopReason, Timings, Trajectory, Turn, Usage

A, B = Passage("a", "A", "text"), Passage("b", "B", "text")


def trajectory(*turns: Turn) -> Trajectory:
    return Trajectory("s3", "Who?", (), turns, StopReason.COMPLETE, Usage(), Timings())


def test_samples_differ_in_worth_or_not() -> None:
    assert [mixed(worth) for worth in ([1.0, 1.0], [1.0, 0.0], [0.5])] == [False, True, False]


def test_the_entropy_of_choices() -> None:
    assert entropy(["a"] * 16) == 0
    assert entropy(["a", "b"] * 8) == pytest.approx(math.log(2))
    assert entropy([str(n) for n in range(16)]) == pytest.approx(math.log(16))


def test_the_first_choice_is_what_was_kept_in_any_order_and_whether_it_went_on() -> None:
    first = Turn("Who?", (A, B), (A, B))
    assert first_choice(trajectory(first)) == first_choice(trajectory(Turn("Who?", (A, B), (B, A)))) == "a b stops"
    assert first_choice(trajectory(first, Turn("more", (A,), (A,)))) == "a b goes on"
    assert first_choice(trajectory()) == " stops"  # a searcher that answered at once
