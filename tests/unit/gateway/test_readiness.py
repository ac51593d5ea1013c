"""A backend is ready if it does real work, which it is not asked for all the time."""

import asyncio
import math
from collections.abc import Sequence

import pytest

from common import context
from search_agent.errors import Failure, GeneratorError
from search_agent.types import IndexInfo
from services.gateway import readiness
from services.gateway.readiness import Probe
from tests.fakes import Generator, Retriever, Searcher


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Backend:
    def __init__(self) -> None:
        self.times, self.error, self.go = 0, False, asyncio.Event()
        self.go.set()

    async def work(self) -> None:
        self.times += 1
        await self.go.wait()
        if self.error:
            raise GeneratorError(Failure.BROKEN, "broken")


async def test_a_success_counts_for_a_while_and_a_failure_does_not() -> None:
    backend, clock = Backend(), Clock()
    probe = Probe(backend.work, clock)
    for _ in range(3):
        await probe.check(1)
    assert backend.times == 1
    clock.now, backend.error = 11, True
    for _ in range(2):
        with pytest.raises(GeneratorError, match="broken"):
            await probe.check(1)
    assert backend.times == 3


async def test_one_that_is_busy_is_ready_and_one_that_hangs_is_not() -> None:
    backend, clock = Backend(), Clock()
    probe = Probe(backend.work, clock)
    backend.go.clear()
    with pytest.raises(GeneratorError, match="does not work"):  # it never did
        await probe.check(0.01)
    backend.go.set()
    await probe.check(1)
    backend.go.clear()
    clock.now = 11
    await probe.check(0.01)
    clock.now = 42
    with pytest.raises(GeneratorError, match="does not work"):
        await probe.check(0.01)
    assert backend.times == 2


async def test_the_work_is_a_search_and_a_token() -> None:
    retriever, searcher, generator = Retriever(), Searcher([]), Generator("an answer")
    for probe in (readiness.search(retriever), readiness.turn(searcher), readiness.answer(generator)):
        await probe.check(1)
    assert len(retriever.queries) == 1
    assert generator.samplings[0].max_tokens == 1
    generator.error = GeneratorError(Failure.BROKEN, "broken")
    with pytest.raises(GeneratorError):
        await readiness.answer(generator).check(1)


async def test_another_server_behind_the_default_index_is_not_searched() -> None:
    class OnAnotherServer(Retriever):
        async def indexes(self) -> Sequence[IndexInfo]:
            return [IndexInfo("web", "", is_default=True)]

    retriever = OnAnotherServer()
    await readiness.search(retriever).check(1)
    assert retriever.queries == []


async def test_the_work_does_not_have_the_little_time_of_the_request_that_began_it() -> None:
    left: list[float] = []

    async def work() -> None:
        left.append(context.time_left(math.inf))

    context.begin_time(0.01)
    await Probe(work).check(1)
    assert left[0] > 1
