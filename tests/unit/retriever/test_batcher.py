from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from search_agent.errors import Failure, RetrieverError
from services.retriever.batcher import Batcher


class Work:
    """Doubles numbers. Holds the first batch until it is released, and fails for a batch with a negative number."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.started.set()
        assert self.release.wait(5)
        if any(item < 0 for item in items):
            raise ValueError("below 0")
        return [2 * item for item in items]

    async def under_way(self) -> None:
        await asyncio.to_thread(self.started.wait, 5)


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    made = Work()
    yield made
    made.release.set()


async def test_what_arrives_during_a_batch_makes_the_next_one(work: Work) -> None:
    batcher = Batcher(work, max_batch=64, max_queued=100)
    first = asyncio.create_task(batcher.submit([0]))
    await work.under_way()
    others = [asyncio.create_task(batcher.submit([n, -n + 100])) for n in range(1, 16)]
    await asyncio.sleep(0)
    work.release.set()
    assert await first == [0]
    assert await asyncio.gather(*others) == [[2 * n, 200 - 2 * n] for n in range(1, 16)]
    assert [len(batch) for batch in work.batches] == [1, 30]


async def test_a_batch_is_bounded_and_large_requests_are_split(work: Work) -> None:
    work.release.set()
    batcher = Batcher(work, max_batch=4, max_queued=100)
    assert await batcher.submit(range(10)) == [2 * n for n in range(10)]
    assert [len(batch) for batch in work.batches] == [4, 4, 2]


async def test_one_failure_leaves_the_others_alone(work: Work) -> None:
    work.release.set()
    batcher = Batcher(work, max_batch=64, max_queued=100)
    results = await asyncio.gather(
        batcher.submit([1, 2]), batcher.submit([3, -1]), batcher.submit([4]), return_exceptions=True
    )
    assert results[0] == [2, 4]
    assert isinstance(results[1], ValueError)
    assert results[2] == [8]
    assert await batcher.submit([5]) == [10]


async def test_a_cancelled_request_leaves_the_queue(work: Work) -> None:
    batcher = Batcher(work, max_batch=64, max_queued=3)
    first = asyncio.create_task(batcher.submit([0]))
    await work.under_way()
    gone = asyncio.create_task(batcher.submit([1, 2, 3]))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    stays = asyncio.create_task(batcher.submit([4, 5, 6]))  # there is room again
    await asyncio.sleep(0)
    work.release.set()
    assert await stays == [8, 10, 12]
    assert await first == [0]
    assert work.batches == [[0], [4, 5, 6]]


async def test_a_caller_that_leaves_during_its_batch_disturbs_nobody(work: Work) -> None:
    batcher = Batcher(work, max_batch=64, max_queued=10)
    both = [asyncio.create_task(batcher.submit([n])) for n in (1, 2)]
    await work.under_way()
    both[0].cancel()
    work.release.set()
    assert await both[1] == [4]


async def test_a_full_queue_refuses(work: Work) -> None:
    batcher = Batcher(work, max_batch=64, max_queued=2)
    first = asyncio.create_task(batcher.submit([0]))
    await work.under_way()
    waiting = asyncio.create_task(batcher.submit([1, 2]))
    await asyncio.sleep(0)
    with pytest.raises(RetrieverError) as caught:
        await batcher.submit([3])
    assert caught.value.failure is Failure.OVERLOADED
    admitted = asyncio.create_task(batcher.submit([4], admitted=True))
    await asyncio.sleep(0)
    work.release.set()
    assert await waiting == [2, 4]
    assert await admitted == [8]
    assert await first == [0]
    await batcher.close()
