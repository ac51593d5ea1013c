"""Naive-RAG results in Redis. A cache that fails slows a request down and never breaks it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import redis.asyncio as redis
import structlog
from redis.exceptions import RedisError

from search_agent.errors import CacheError, Failure
from search_agent.rag_cache import RagKey
from search_agent.types import Document, Passage, StopReason, Timings, Trajectory, Turn, Usage
from services.common import metrics

log = structlog.get_logger()


class RagCache:
    """Look-ups and writes are counted by outcome; a failure is logged once until the cache works again."""

    def __init__(self, url: str, ttl_s: int) -> None:
        self._redis = redis.Redis.from_url(
            url, socket_timeout=0.5, socket_connect_timeout=0.5, protocol=2, retry_on_error=[]
        )
        self._ttl_s = ttl_s
        self._failing = False

    async def get(self, key: RagKey) -> Trajectory | None:
        """The result stored under the key, or None if there is none or Redis does not answer."""
        try:
            found = await self._redis.get(key.digest())
        except (RedisError, OSError) as error:
            self._failed(error)
            metrics.CACHE_LOOKUPS.labels("unavailable").inc()
            return None
        self._failing = False
        metrics.CACHE_LOOKUPS.labels("hit" if found else "miss").inc()
        return _decode(json.loads(found)) if found else None

    async def put(self, key: RagKey, result: Trajectory) -> None:
        """Stores an answered trajectory, if Redis takes it."""
        try:
            await self._redis.set(key.digest(), json.dumps(asdict(result)), ex=self._ttl_s)
        except (RedisError, OSError) as error:
            self._failed(error)

    async def check(self) -> None:
        """Raises CacheError if Redis does not answer."""
        try:
            await self._redis.ping()
        except (RedisError, OSError) as error:
            raise CacheError(Failure.UNAVAILABLE, f"Redis does not answer: {error}") from error

    async def close(self) -> None:
        await self._redis.aclose()

    def _failed(self, error: Exception) -> None:
        metrics.AGENT_FAILURES.labels(CacheError.boundary, Failure.UNAVAILABLE).inc()
        if not self._failing:
            log.warning("cache unavailable, running uncached", error=str(error))
        self._failing = True


def _decode(value: dict[str, Any]) -> Trajectory:
    def passages(items: list[dict[str, Any]]) -> tuple[Passage, ...]:
        return tuple(Passage(**item) for item in items)

    return Trajectory(
        method=value["method"],
        question=value["question"],
        documents=tuple(Document(Passage(**d["passage"]), d["turn"]) for d in value["documents"]),
        turns=tuple(
            Turn(t["query"], passages(t["retrieved"]), passages(t["selected"]), t["error"]) for t in value["turns"]
        ),
        stop_reason=StopReason(value["stop_reason"]),
        usage=Usage(**value["usage"]),
        timings=Timings(),  # nothing was waited for
        answer=value["answer"],
        models=tuple(value["models"]),
    )
