"""The parts of `bench.cpu` that need no model."""

from __future__ import annotations

from typing import Any

from bench.cpu import answers_of, medians


def row(engine: str, id: str, seconds: float, answer: str, right: bool, searches: int = 2) -> dict[str, Any]:
    return {
        "engine": engine,
        "id": id,
        "method": "s3",
        "searches": searches,
        "processor_s": seconds,
        "seconds": 2 * seconds,
        "answer": answer,
        "right": right,
    }


ROWS = [
    row("a", "1", 1.0, "x", True),
    row("a", "2", 3.0, "y", True),
    row("b", "1", 5.0, "x", True),
    row("b", "2", 7.0, "z", False, searches=1),
]


def test_medians_are_taken_over_questions_with_as_many_searches() -> None:
    assert medians(ROWS) == {
        "s3, 1 search": {"b": {"processor_s": 7.0, "seconds": 14.0}},
        "s3, 2 searches": {
            "a": {"processor_s": 2.0, "seconds": 4.0},
            "b": {"processor_s": 5.0, "seconds": 10.0},
        },
    }


def test_answers_are_compared_with_those_of_the_first_engine() -> None:
    assert answers_of(ROWS) == {"a": {"right": 1.0, "same": 1.0}, "b": {"right": 0.5, "same": 0.5}}
