"""The parts of `bench.callers` that need no model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.callers import ask, medians
from search_agent.types import Question
from search_agent_client.errors import GatewayProblem

QUESTION = Question("q1", "Who?", ("Ada",))


class Gateway:
    """Refuses a question as often as the test says."""

    def __init__(self, *waits: float | None) -> None:
        self.waits = list(waits)

    async def answer(self, text: str, method: str) -> Any:
        if self.waits:
            raise GatewayProblem(503, {"detail": "busy"}, self.waits.pop(0))
        return SimpleNamespace(turns=(1, 2), answer="Ada")


async def test_a_refused_caller_comes_again() -> None:
    row = await ask(Gateway(0.0, 0.01), QUESTION, "s3")  # type: ignore[arg-type]
    assert (row["refusals"], row["searches"], row["right"]) == (2, 2, True)
    assert row["seconds"] >= 0.01


async def test_a_question_that_cannot_be_asked_again_fails() -> None:
    with pytest.raises(GatewayProblem):
        await ask(Gateway(None), QUESTION, "s3")  # type: ignore[arg-type]


def test_medians_are_taken_by_callers() -> None:
    rows = [{"callers": callers, "seconds": seconds} for callers, seconds in ((1, 3.0), (4, 5.0), (1, 4.0), (4, 9.0))]
    assert medians(rows) == {"1": 3.5, "4": 7.0}
