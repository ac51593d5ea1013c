"""Routes for operators: health, readiness, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from common.backends import GrpcTrainer
from common.keys import KeyStore
from search_agent.errors import BoundaryError, Failure
from search_agent.world import Generator, Searcher
from services.gateway.player import Backends

M = TypeVar("M", Searcher, Generator)


def routes(backends: Backends, trainer: GrpcTrainer | None, keys: KeyStore | None) -> APIRouter:
    """Returns the routes."""
    router = APIRouter(tags=["operation"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers while the process is up."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        """Checks the backends, each "ok" or its kind of failure.

        A missing cache or trainer is reported, and does not make the gateway unready.
        """
        checks: dict[str, Awaitable[object]] = {
            "retriever": backends.retriever.indexes(),
            **_infos("searcher", backends.searcher, backends.searchers),
            **_infos("generator", backends.generator, backends.generators),
        }
        if keys:  # without them nobody is let in
            checks["keys"] = keys.get("")
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


def _infos(role: str, common: M, own: Mapping[str, M]) -> dict[str, Awaitable[object]]:
    """Asks each model once. It is called by its role, and "role:method,…" if only those methods use it."""
    methods: dict[M, list[str]] = {common: []}
    for method, model in own.items():
        methods.setdefault(model, []).append(method)
    return {role if model is common else f"{role}:{','.join(names)}": model.info() for model, names in methods.items()}


async def _state(check: Awaitable[object]) -> str:
    try:
        await asyncio.wait_for(check, 2)
    except BoundaryError as error:
        return error.failure
    except TimeoutError:
        return Failure.TIMEOUT
    return "ok"
