"""Searches that several samples make are sent once."""

import asyncio
from collections.abc import Sequence

import pytest

from learning.shared_searches import SharedRetriever
from search_agent.errors import Failure, RetrieverError
from search_agent.types import IndexInfo, Mode, Rankings, Retrieval


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
