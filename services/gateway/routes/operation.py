"""Routes for operators: health, readiness, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from common.backends import GrpcTrainer
from search_agent.errors import BoundaryError
from search_agent.world import Searcher
from services.gateway.player import Backends


def routes(backends: Backends, trainer: GrpcTrainer | None) -> APIRouter:
    """Returns the routes."""
    router = APIRouter(tags=["operation"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers while the process is up."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        """Checks the backends. A missing cache or trainer is reported, and does not make the gateway unready."""
        checks: dict[str, Awaitable[object]] = {
            "retriever": backends.retriever.indexes(),
            **{name: searcher.info() for name, searcher in _searchers(backends).items()},
            "generator": backends.generator.info(),
        }
        states = dict(zip(checks, await asyncio.gather(*map(_state, checks.values())), strict=True))
        ready = all(state == "ok" for state in states.values())
        if backends.cache is None:
            states["cache"] = "not configured; naive RAG runs uncached"
        else:
            cache = await _state(backends.cache.store.check())
            states["cache"] = cache if cache == "ok" else f"{cache}; naive RAG runs uncached"
        if trainer:
            states["trainer"] = await _state(trainer.runs())
        return JSONResponse({"status": "ready" if ready else "not ready", "backends": states}, 200 if ready else 503)

    @router.get("/metrics", include_in_schema=False)
    async def exposition() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


def _searchers(backends: Backends) -> dict[str, Searcher]:
    """Names each searcher once: "searcher", and "searcher:method,…" for one that only those methods use."""
    methods: dict[Searcher, list[str]] = {backends.searcher: []}
    for method, searcher in backends.searchers.items():
        methods.setdefault(searcher, []).append(method)
    return {
        "searcher" if searcher is backends.searcher else f"searcher:{','.join(names)}": searcher
        for searcher, names in methods.items()
    }


async def _state(check: Awaitable[object]) -> str:
    try:
        await asyncio.wait_for(check, 2)
    except BoundaryError as error:
        return f"{error.failure}: {error.message}"
    except TimeoutError:
        return "timeout: no answer in 2 s"
    return "ok"
