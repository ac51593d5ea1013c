"""The gateway's naive-RAG cache. If it fails, requests are slower, and never fail."""

from __future__ import annotations

import structlog

from common import metrics, tracing
from common.rag_store import RagStore
from search_agent.errors import CacheError
from search_agent.types import Trajectory
from services.gateway.observed import count_failure

log = structlog.get_logger()


class RagCache:
    """Counts look-ups by result. A failure is logged once, until the store works again."""

    def __init__(self, store: RagStore) -> None:
        self.store = store
        self._failing = False

    async def get(self, key: str) -> Trajectory | None:
        """Returns the result under a RagKey's digest, or None if there is none or Redis does not answer."""
        with tracing.span("cache get", {"db.system.name": "redis", "db.operation.name": "GET"}, "client") as span:
            try:
                found = await self.store.get(key)
            except CacheError as error:
                self._failed(error)
                metrics.CACHE_LOOKUPS.labels("unavailable").inc()
                span.fail(f"{error.boundary}.{error.failure}")
                return None
            self._failing = False
            result = "hit" if found else "miss"
            metrics.CACHE_LOOKUPS.labels(result).inc()
            span.set({"search_agent.cache.result": result})
            return found

    async def put(self, key: str, result: Trajectory) -> bool:
        """Stores an answered trajectory. Returns False if Redis did not take it."""
        try:
            await self.store.put(key, result)
        except CacheError as error:
            self._failed(error)
            return False
        return True

    def _failed(self, error: CacheError) -> None:
        count_failure(error)
        if not self._failing:
            log.warning("cache unavailable, running uncached", error=error.message)
        self._failing = True
