"""Merges the items of concurrent callers into batches; a lone caller never waits for others."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from common import metrics
from search_agent.errors import Failure, RetrieverError

# After a batch of several items, the next one waits for this share of the batch's time. The callers of the batch
# ask again within a moment; without the wait, the first of them would have a batch to itself and hold up the rest.
_GATHER = 0.05

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Ticket(Generic[Item, Result]):
    item: Item
    done: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Runs `work`, which turns a list of items into as many results, in one thread; meanwhile the next batch collects.

    If `work` raises for a batch, each of its items is tried alone, so that only those at fault fail.
    """

    def __init__(self, work: Callable[[list[Item]], Sequence[Result]], max_batch: int, max_queued: int) -> None:
        self._work = work
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._queue: deque[_Ticket[Item, Result]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, items: Sequence[Item], admitted: bool = False) -> list[Result]:
        """Returns the results of `items`, in order. Raises RetrieverError (OVERLOADED), or what `work` raised.

        `admitted` items continue a request whose first items were let in; they never meet the limit.

        Cancelling it removes the items that no batch has begun from the queue.
        """
        if not admitted and len(self._queue) + len(items) > self._max_queued:
            raise RetrieverError(
                Failure.OVERLOADED, f"{len(self._queue)} queries are waiting, the limit is {self._max_queued}"
            )
        loop = asyncio.get_running_loop()
        tickets = [_Ticket[Item, Result](item, loop.create_future()) for item in items]
        self._queue.extend(tickets)
        self._report()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        try:
            return await asyncio.gather(*(ticket.done for ticket in tickets))
        finally:
            # After a failed item or a caller who left, nobody reads the other results.
            for ticket in tickets:
                ticket.done.cancel()
            if any(ticket.done.cancelled() for ticket in tickets):
                self._queue = deque(ticket for ticket in self._queue if not ticket.done.done())
                self._report()

    async def close(self) -> None:
        """Waits for the batch in progress. Submitting after that is an error."""
        await asyncio.to_thread(self._thread.shutdown)

    def _report(self) -> None:
        metrics.RETRIEVER_QUEUED_QUERIES.set(len(self._queue))

    async def _run(self) -> None:
        # Callers that are already runnable get their items in before the first batch is cut.
        await asyncio.sleep(0)
        try:
            while self._queue:
                size = min(self._max_batch, len(self._queue))
                batch = [self._queue.popleft() for _ in range(size)]
                self._report()
                metrics.RETRIEVER_BATCH_QUERIES.observe(size)
                started = time.perf_counter()
                if not await self._attempt(batch):
                    for ticket in batch:
                        if not ticket.done.done():
                            await self._attempt([ticket])
                if size > 1:
                    await asyncio.sleep(_GATHER * (time.perf_counter() - started))
        finally:
            self._runner = None

    async def _attempt(self, batch: list[_Ticket[Item, Result]]) -> bool:
        """Completes the batch's tickets. Returns False if the batch failed and each item should be tried alone."""
        items = [ticket.item for ticket in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._work, items)
        except Exception as error:
            if len(batch) > 1:
                return False
            if not batch[0].done.done():
                batch[0].done.set_exception(error)
            return True
        for ticket, result in zip(batch, results, strict=True):
            if not ticket.done.done():
                ticket.done.set_result(result)
        return True
