"""From settings to an application: the one place where the gateway's parts meet."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn

from fastapi import FastAPI

from common.backends import GrpcGenerator, GrpcPolicy, GrpcRetriever, GrpcTrainer
from common.rag_store import RagStore
from search_agent import conversation
from search_agent.agents import AGENTS
from search_agent.errors import CacheError
from search_agent.parameters import BadParameter
from search_agent.types import Sampling
from services.gateway.app import create_app
from services.gateway.asker import Asker
from services.gateway.cache import RagCache
from services.gateway.methods import Methods
from services.gateway.player import Backends, Player
from services.gateway.settings import GatewaySettings

_REDIS_TIMEOUT_S = 0.5


def wire(settings: GatewaySettings) -> FastAPI:
    """Returns the wired application. Exits with status 2 if a setting names an unknown method or a bad parameter."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for backend in (retriever, *searchers.values(), *generators.values(), store, trainer):
            if backend:
                await backend.close()

    retriever = GrpcRetriever(settings.retriever, settings.retriever_timeout_s)
    searchers = {
        target: GrpcPolicy(target, settings.searcher_timeout_s)
        for target in _targets(settings.searcher, settings.searchers, "GATEWAY_SEARCHERS")
    }
    generators = {
        target: GrpcGenerator(target, settings.generator_timeout_s)
        for target in _targets(settings.generator, settings.generators, "GATEWAY_GENERATORS")
    }
    store = None
    if settings.redis_url:
        try:
            store = RagStore(settings.redis_url.get_secret_value(), settings.cache_ttl_s, _REDIS_TIMEOUT_S)
        except CacheError as error:
            _refuse(f"GATEWAY_REDIS_URL: {error}")
    backends = Backends(
        retriever,
        searchers[settings.searcher],
        generators[settings.generator],
        RagCache(store) if store else None,
        {method: searchers[target] for method, target in settings.searchers.items()},
        {method: generators[target] for method, target in settings.generators.items()},
    )
    for name in settings.methods:
        _known(name, "GATEWAY_METHODS")
    with _checking("GATEWAY_METHODS"):
        methods = Methods(backends, settings.methods)
    with _checking("GATEWAY_CONFIGURATIONS"):
        for name, configuration in settings.configurations.items():
            methods.add(name, configuration)
    rewrite = {
        "off": None,
        "searcher": conversation.by_searcher(backends.searcher),
        "generator": conversation.by_generator(backends.generator),
    }[settings.condense]
    player = Player(backends, Sampling(max_tokens=settings.answer_max_tokens))
    trainer = GrpcTrainer(settings.trainer, settings.trainer_timeout_s) if settings.trainer else None
    asker = Asker(player, methods, settings.max_in_flight, rewrite)
    app = create_app(backends, asker, trainer, settings.citations)
    app.router.lifespan_context = lifespan
    return app


def _targets(common: str, own: Mapping[str, str], setting: str) -> list[str]:
    """Returns each address once."""
    for method in own:
        _known(method, setting)
    return list(dict.fromkeys([common, *own.values()]))


def _known(method: str, setting: str) -> None:
    if method not in AGENTS:
        _refuse(f"{setting}: {method}: no such method; the methods are {', '.join(AGENTS)}")


@contextmanager
def _checking(setting: str) -> Iterator[None]:
    try:
        yield
    except BadParameter as error:
        _refuse(f"{setting}: {error}")


def _refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2) from None
