"""A full service is waited for, and any other failure is not."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from learning import waiting
from learning.waiting import PatientGenerator, PatientRetriever, SharedRetriever
from search_agent.errors import Failure, GeneratorError, RetrieverError
from search_agent.types import Completion, IndexInfo, Message, Mode, ModelInfo, Rankings, Retrieval, Sampling


class Busy:
    """Refuses so many calls, then serves."""

    def __init__(self, refusals: int, failure: Failure = Failure.OVERLOADED) -> None:
        self.left, self.failure, self.calls = refusals, failure, 0

    def _refuse(self) -> bool:
        self.calls += 1
        self.left -= 1
        return self.left >= 0

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        if self._refuse():
            raise RetrieverError(self.failure, "full")
        return Rankings([()])

    async def indexes(self) -> Sequence[IndexInfo]:
        return []

    async def info(self) -> ModelInfo:
        return ModelInfo("busy@1")

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        if self._refuse():
            raise GeneratorError(self.failure, "full")
        yield Completion("an ")
        yield Completion("answer")


async def answer(generator: PatientGenerator) -> str:
    return "".join([piece.text async for piece in generator.stream([], Sampling(max_tokens=4))])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_FIRST_S", 0.01)


async def test_a_full_service_is_asked_again() -> None:
    full = Busy(3)
    assert await PatientRetriever(full, 5).search(["q"], Retrieval(1, "", Mode.DENSE)) == [()]
    assert full.calls == 4
    full = Busy(3)
    assert await answer(PatientGenerator(full, 5)) == "an answer"
    assert full.calls == 4


async def test_there_is_a_limit() -> None:
    started = time.monotonic()
    with pytest.raises(GeneratorError, match="full"):
        await answer(PatientGenerator(Busy(1000), 0.2))
    assert time.monotonic() - started < 1
    with pytest.raises(RetrieverError, match="full"):
        await PatientRetriever(Busy(1000), 0.2).search(["q"], Retrieval(1, "", Mode.DENSE))


async def test_other_failures_are_not_waited_for() -> None:
    for failure in (Failure.TIMEOUT, Failure.INVALID, Failure.UNAVAILABLE):
        broken = Busy(1, failure)
        with pytest.raises(GeneratorError):
            await answer(PatientGenerator(broken, 5))
        assert broken.calls == 1


async def test_a_search_of_many_is_sent_once() -> None:
    idle = Busy(0)
    shared = SharedRetriever(idle, 2)
    together = (shared.search(["q"], Retrieval(3, "", Mode.DENSE)) for _ in range(16))
    assert await asyncio.gather(*together) == [[()]] * 16
    await shared.search(["q"], Retrieval(3, "", Mode.DENSE))
    assert idle.calls == 1
    for query, top_k in (("other", 3), ("q", 4)):  # the second pushes the first query out
        await shared.search([query], Retrieval(top_k, "", Mode.DENSE))
    await shared.search(["q"], Retrieval(3, "", Mode.DENSE))
    assert idle.calls == 4


async def test_a_search_that_failed_is_sent_again() -> None:
    broken = Busy(1, Failure.TIMEOUT)
    shared = SharedRetriever(broken, 2)
    with pytest.raises(RetrieverError):
        await shared.search(["q"], Retrieval(3, "", Mode.DENSE))
    assert await shared.search(["q"], Retrieval(3, "", Mode.DENSE)) == [()]


async def test_one_who_leaves_does_not_take_the_search_along() -> None:
    class Slow(Busy):
        async def search(self, *args: object) -> Rankings:  # type: ignore[override]
            await asyncio.sleep(0.02)
            return Rankings([()])

    shared = SharedRetriever(Slow(0), 2)
    leaves, stays = (asyncio.create_task(shared.search(["q"], Retrieval(3, "", Mode.DENSE))) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    assert await stays == [()]
