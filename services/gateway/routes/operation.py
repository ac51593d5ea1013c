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
_SERVICE = "#"  # between a model's name and the number of one of its services


def routes(backends: Backends, trainer: GrpcTrainer | None, keys: KeyStore | None) -> APIRouter:
    """Returns the routes. `backends` are asked for readiness."""
    router = APIRouter(tags=["operation"])
    probes: dict[object, Probe] = {}

    async def works(part: P, info: Callable[[P], Awaitable[object]], probe: Callable[[P], Probe]) -> None:
        await info(part)  # is cheap, and fails at once where nothing listens
        await probes.setdefault(part, probe(part)).check(_PROBE_S)

    async def answers(name: str, model: M, probe: Callable[[M], Probe]) -> dict[str, str]:
        """Returns the model's state, which is that of its best service, and each service's if there are several."""
        services = backends.replicas.get(model, (model,))
        checks = (_state(works(each, lambda service: service.info(), probe)) for each in services)
        states = await asyncio.gather(*checks)
        told = {name: "ok" if "ok" in states else states[0]}
        if len(states) > 1:
            told |= {f"{name}{_SERVICE}{number}": state for number, state in enumerate(states, start=1)}
        return told

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers while the process is up."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(request: Request) -> JSONResponse:
        """Has the backends make a search and a token, each "ok" or its kind of failure.

        Of several services that hold a model, one that answers is enough; `searcher#2` is the state of the second. A
        missing cache or trainer is reported, and does not make the gateway unready. One that stops is not ready.
        """
        states: dict[str, str] = {}
        for found in await asyncio.gather(
            _told("retriever", works(backends.retriever, lambda retriever: retriever.indexes(), readiness.search)),
            *(answers(*each, readiness.turn) for each in _named("searcher", backends.searcher, backends.searchers)),
            *(
                answers(*each, readiness.answer)
                for each in _named("generator", backends.generator, backends.generators)
            ),
            *([_told("keys", keys.get(""))] if keys else ()),  # without them nobody is let in
        ):
            states |= found
        stops = getattr(request.app.state, "stops", False)
        ready = all(state == "ok" for name, state in states.items() if _SERVICE not in name) and not stops
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


async def _told(name: str, check: Awaitable[object]) -> dict[str, str]:
    return {name: await _state(check)}


async def _state(check: Awaitable[object]) -> str:
    try:
        await asyncio.wait_for(check, _CHECK_S)
    except BoundaryError as error:
        return error.failure
    except TimeoutError:
        return Failure.TIMEOUT
    return "ok"
