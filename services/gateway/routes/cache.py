"""Routes over the naive-RAG cache."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from common import metrics
from common.rag_store import RagStore
from services.gateway import caller
from services.gateway.player import Backends
from services.gateway.problems import NotConfigured
from services.gateway.schemas import CachedIndexOut, CacheOut, ClearedOut


def routes(backends: Backends) -> APIRouter:
    """Returns the routes; without a cache each answers that there is none."""
    router = APIRouter(prefix="/v1", tags=["cache"])

    def store() -> RagStore:
        if backends.cache is None:
            raise NotConfigured("no cache is configured (GATEWAY_REDIS_URL)")
        return backends.cache.store

    @router.get("/cache")
    async def cache_statistics() -> CacheOut:
        """Counts the cached naive-RAG results by index version."""
        contents, served = await asyncio.gather(store().contents(), backends.retriever.indexes())
        current = {(index.name, index.version) for index in served}
        return CacheOut(
            indexes=[
                CachedIndexOut(
                    index=index, version=version, results=found.results, scored=found.scored,
                    current=(index, version) in current,
                )
                for (index, version), found in sorted(contents.items())
                if caller.current().may_use(index)
            ],
            lookups={
                sample.labels["result"]: int(sample.value)
                for family in metrics.CACHE_LOOKUPS.collect()
                for sample in family.samples
                if sample.name.endswith("_total")
            },
        )  # fmt: skip

    @router.delete("/cache")
    async def clear_cache(index: str, version: str = "") -> ClearedOut:
        """Removes the cached results of an index, of one version or of all, precomputed ones too."""
        caller.current().check_index(index)
        return ClearedOut(removed=await store().clear(index, version))

    return router
