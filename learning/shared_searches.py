"""Sends searches that several samples of a step make at the same time only once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from search_agent.types import IndexInfo, Rankings, Retrieval
from search_agent.world import Retriever


class SharedRetriever:
    """Retriever port: sends a search once that many ask for. All samples of a group begin with the same query.

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
