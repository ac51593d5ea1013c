"""Retriever and generator ports for a step's samples, which all arrive at once.

They wait while a service is full, and send a search that several samples share only once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence

from search_agent.errors import BoundaryError, Failure
from search_agent.types import Completion, IndexInfo, Message, ModelInfo, Rankings, Retrieval, Sampling
from search_agent.world import Generator, Retriever

_FIRST_S, _LONGEST_S = 0.1, 5.0


class _Patience:
    """The time that one call may still wait."""

    def __init__(self, limit_s: float) -> None:
        self._until, self._next = time.monotonic() + limit_s, _FIRST_S

    async def wait(self, error: BoundaryError) -> None:
        """Waits longer each time. Raises `error` if the service is not merely full, or if the limit is near."""
        if error.failure is not Failure.OVERLOADED or time.monotonic() + self._next > self._until:
            raise error
        await asyncio.sleep(
            self._next * random.uniform(0.5, 1.0)
        )  # calls that were refused together do not return together
        self._next = min(2 * self._next, _LONGEST_S)


class PatientRetriever:
    """Retriever port: asks again for up to `limit_s` seconds while the retriever is full."""

    def __init__(self, retriever: Retriever, limit_s: float) -> None:
        self._retriever, self._limit_s = retriever, limit_s

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        patience = _Patience(self._limit_s)
        while True:
            try:
                return await self._retriever.search(queries, how)
            except BoundaryError as error:
                await patience.wait(error)

    async def indexes(self) -> Sequence[IndexInfo]:
        return await self._retriever.indexes()


class PatientGenerator:
    """Generator port: asks again for up to `limit_s` seconds while the generator is full."""

    def __init__(self, generator: Generator, limit_s: float) -> None:
        self._generator, self._limit_s = generator, limit_s

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        patience = _Patience(self._limit_s)
        while True:
            try:
                async for piece in self._generator.stream(messages, sampling):
                    yield piece
                return
            except BoundaryError as error:  # a full service refuses before the first piece
                await patience.wait(error)

    async def info(self) -> ModelInfo:
        return await self._generator.info()


class SharedRetriever:
    """Retriever port: sends once what many ask for. All samples of a group begin with the same query.

    Keeps the results of the last `limit` searches; one that failed is asked again.
    """

    def __init__(self, retriever: Retriever, limit: int) -> None:
        self._retriever, self._limit = retriever, limit
        self._asked: dict[tuple[object, ...], asyncio.Future[Rankings]] = {}

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        key = (*queries, how)
        asked = self._asked.get(key)
        if asked is None or (asked.done() and (asked.cancelled() or asked.exception())):
            asked = asyncio.ensure_future(self._retriever.search(queries, how))
            self._asked[key] = asked
            if len(self._asked) > self._limit:
                del self._asked[next(iter(self._asked))]
        found = await asyncio.shield(asked)  # one cancelled caller does not cancel the others
        return Rankings(found, found.served)

    async def indexes(self) -> Sequence[IndexInfo]:
        return await self._retriever.indexes()
