"""Routes for operators: health, readiness, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from common.backends import GrpcTrainer
from common.keys import KeyStore
from search_agent.errors import BoundaryError, Failure
from search_agent.world import Searcher, Writer
from services.gateway import readiness
from services.gateway.player import Backends
from services.gateway.readiness import Probe

M = TypeVar("M", Searcher, Writer)
P = TypeVar("P")
_CHECK_S, _PROBE_S = 2.0, 1.5


def routes(backends: Backends, trainer: GrpcTrainer | None, keys: KeyStore | None) -> APIRouter:
    """Returns the routes. `backends` are asked for readiness."""
    router = APIRouter(tags=["operation"])
    probes: dict[object, Probe] = {}

    async def works(part: P, info: Callable[[P], Awaitable[object]], probe: Callable[[P], Probe]) -> None:
        await info(part)  # is cheap, and fails at once where nothing listens
        await probes.setdefault(part, probe(part)).check(_PROBE_S)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers while the process is up."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(request: Request) -> JSONResponse:
        """Has the backends make a search and a token, each "ok" or its kind of failure.

        A missing cache or trainer is reported, and does not make the gateway unready. One that stops is not ready.
        """
        checks: dict[str, Awaitable[object]] = {
            "retriever": works(backends.retriever, lambda retriever: retriever.indexes(), readiness.search)
        }
        for name, searcher in _named("searcher", backends.searcher, backends.searchers):
            checks[name] = works(searcher, lambda model: model.info(), readiness.turn)
        for name, generator in _named("generator", backends.generator, backends.generators):
            checks[name] = works(generator, lambda model: model.info(), readiness.answer)
        if keys:  # without them nobody is let in
            checks["keys"] = keys.get("")
        states = dict(zip(checks, await asyncio.gather(*map(_state, checks.values())), strict=True))
        stops = getattr(request.app.state, "stops", False)
        ready = all(state == "ok" for state in states.values()) and not stops
        if backends.cache is None:
            states["cache"] = "not configured; naive RAG runs uncached"
        else:
            cache = await _state(backends.cache.store.check())
            states["cache"] = cache if cache == "ok" else f"{cache}; naive RAG runs uncached"
        if trainer:
            states["trainer"] = await _state(trainer.runs())
        status = "ready" if ready else "stopping" if stops else "not ready"
        return JSONResponse({"status": status, "backends": states}, 200 if ready else 503)

    @router.get("/metrics", include_in_schema=False)
    async def exposition(request: Request) -> Response:
        encode, media = choose_encoder(request.headers.get("accept", ""))  # OpenMetrics has exemplars too
        return Response(encode(REGISTRY), media_type=media)

    return router


def _named(role: str, common: M, own: Mapping[str, M]) -> Iterator[tuple[str, M]]:
    """Yields each model once. Its name is its role, or "role:method,…" if only those methods use it."""
    methods: dict[M, list[str]] = {common: []}
    for method, model in own.items():
        methods.setdefault(model, []).append(method)
    for model, names in methods.items():
        yield role if model is common else f"{role}:{','.join(names)}", model


async def _state(check: Awaitable[object]) -> str:
    try:
        await asyncio.wait_for(check, _CHECK_S)
    except BoundaryError as error:
        return error.failure
    except TimeoutError:
        return Failure.TIMEOUT
    return "ok"
