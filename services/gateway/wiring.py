"""From settings to an application: the one place where the gateway's parts meet."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from search_agent.agents import AGENTS
from search_agent.types import Sampling
from services.common.rag_store import RagStore
from services.gateway.app import create_app
from services.gateway.asking import Asker, Backends
from services.gateway.backends import GrpcGenerator, GrpcPolicy, GrpcRetriever
from services.gateway.cache import RagCache
from services.gateway.settings import GatewaySettings

_REDIS_TIMEOUT_S = 0.5


def wire(settings: GatewaySettings) -> FastAPI:
    """Exits with status 2 if GATEWAY_METHODS names what no method has."""
    agents = dict(AGENTS)
    for name, params in settings.methods.items():
        try:
            if name not in agents:
                raise ValueError(f"{name}: no such method; there are {', '.join(agents)}")
            agents[name] = agents[name].with_params(params)
        except ValueError as error:
            print(f"GATEWAY_METHODS: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for backend in (retriever, searcher, generator, store):
            if backend:
                await backend.close()

    retriever = GrpcRetriever(settings.retriever, settings.retriever_timeout_s)
    searcher = GrpcPolicy(settings.searcher, settings.searcher_timeout_s)
    generator = GrpcGenerator(settings.generator, settings.generator_timeout_s)
    store = None
    if settings.redis_url:
        store = RagStore(settings.redis_url.get_secret_value(), settings.cache_ttl_s, _REDIS_TIMEOUT_S)
    backends = Backends(retriever, searcher, generator, RagCache(store) if store else None)
    asker = Asker(backends, Sampling(max_tokens=settings.answer_max_tokens))
    app = create_app(backends, asker, agents, settings.max_in_flight)
    app.router.lifespan_context = lifespan
    return app
