"""From settings to an application: the one place where the gateway's parts meet."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import NoReturn

import httpx
import structlog
from fastapi import FastAPI

from common import http
from common.backends import GrpcGenerator, GrpcPolicy, GrpcRetriever, GrpcTrainer
from common.judge import JudgeEndpoint
from common.keys import KeyStore, open_store
from common.rag_store import RagStore
from search_agent import conversation
from search_agent.agents import AGENTS
from search_agent.errors import CacheError, KeysError
from search_agent.parameters import BadParameter
from search_agent.types import Sampling
from services.gateway.app import create_app
from services.gateway.asker import Asker
from services.gateway.cache import RagCache
from services.gateway.capacity import Capacity
from services.gateway.counters import Counters, MemoryCounters, RedisCounters, SpareCounters
from services.gateway.door import Rules
from services.gateway.guarded import AdmittedRetriever, GuardedRetriever, MeteredGenerator, MeteredSearcher
from services.gateway.guards import HttpGuard, RuleGuard
from services.gateway.limits import Meter
from services.gateway.methods import Methods
from services.gateway.player import Backends, Player
from services.gateway.settings import GatewaySettings
from services.gateway.shadow import Shadow

log = structlog.get_logger()
_REDIS_TIMEOUT_S = 0.5
_JUDGE_PATIENCE_S = 10.0  # nobody waits for the shadow, but it holds a place
# Training clients of other projects send many batches at once and do not come again. Ten times a batch's time ends
# before the deadline of each of its calls.
_RETRIEVALS, _RETRIEVAL_SLOWDOWN, _FIRST_RETRIEVAL_S = 256, 10.0, 1.0


def wire(settings: GatewaySettings) -> FastAPI:
    """Returns the wired application. Exits with status 2 if a setting names an unknown method or a bad parameter."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if keys:
            await _tell_if_nobody_has_a_key(keys)
        yield
        for each in closing:
            await each.close()

    keys, counters = _keys(settings)
    meter = Meter(counters, settings.limits(), settings.question_timeout_s)
    retriever = GrpcRetriever(settings.retriever, settings.retriever_timeout_s, watches=True)
    searchers = {
        target: GrpcPolicy(target, settings.searcher_timeout_s, watches=True)
        for target in _targets(settings.searcher, settings.searchers, "GATEWAY_SEARCHERS")
    }
    generators = {
        target: GrpcGenerator(target, settings.generator_timeout_s, watches=True)
        for target in _targets(settings.generator, settings.generators, "GATEWAY_GENERATORS")
    }
    store = None
    if settings.redis_url:
        try:
            store = RagStore(settings.redis_url.get_secret_value(), settings.cache_ttl_s, _REDIS_TIMEOUT_S)
        except CacheError as error:
            _refuse(f"GATEWAY_REDIS_URL: {error}")
    guard = _guard(settings)
    metered_searchers = {target: MeteredSearcher(searcher, meter) for target, searcher in searchers.items()}
    metered_generators = {target: MeteredGenerator(generator, meter) for target, generator in generators.items()}
    backends = Backends(
        GuardedRetriever(retriever),
        metered_searchers[settings.searcher],
        metered_generators[settings.generator],
        RagCache(store) if store else None,
        {method: metered_searchers[target] for method, target in settings.searchers.items()},
        {method: metered_generators[target] for method, target in settings.generators.items()},
        guard,
        {metered_searchers[target]: searcher.replicas for target, searcher in searchers.items()}
        | {metered_generators[target]: generator.replicas for target, generator in generators.items()},
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
        # that of `direct`, because one that learned to read passages rewrites nothing
        "generator": conversation.by_generator(backends.generator_of("direct")),
    }[settings.condense]
    player = Player(backends, Sampling(max_tokens=settings.answer_max_tokens))
    trainer = GrpcTrainer(settings.trainer, settings.trainer_timeout_s) if settings.trainer else None
    rules = Rules(
        keys,
        meter,
        settings.hosts,
        settings.cors_origins,
        settings.max_body_bytes,
        settings.max_passages_bytes,
        settings.body_timeout_s,
        settings.question_timeout_s,
    )
    capacity = Capacity(
        settings.max_in_flight, settings.max_slowdown, settings.first_question_s, settings.first_at_once
    )
    retrieval = Capacity(_RETRIEVALS, _RETRIEVAL_SLOWDOWN, _FIRST_RETRIEVAL_S, _RETRIEVALS)
    judge = _judge(settings)
    shadow = None
    if judge:
        shadow = Shadow(
            player,
            capacity,
            meter,
            judge.by_passages,
            settings.shadow_share,
            settings.shadow_tokens_per_day,
            settings.question_timeout_s,
            settings.shadow_excluded,
        )
    asker = Asker(player, methods, capacity, rewrite, meter, shadow.offer if shadow else None)
    asked_for = replace(backends, retriever=AdmittedRetriever(retriever, retrieval))
    app = create_app(asked_for, asker, trainer, settings.citations, rules, settings.root_path, backends)
    service = guard if isinstance(guard, HttpGuard) else None
    # Those that use others come before them.
    parts = (
        shadow,
        judge,
        retriever,
        *searchers.values(),
        *generators.values(),
        store,
        trainer,
        keys,
        counters,
        service,
    )
    closing = [part for part in parts if part]
    app.router.lifespan_context = lifespan
    return app


def _targets(common: str, own: Mapping[str, str], setting: str) -> list[str]:
    """Returns each address once."""
    for method in own:
        _known(method, setting)
    return list(dict.fromkeys([common, *own.values()]))


def _guard(settings: GatewaySettings) -> RuleGuard | HttpGuard | None:
    if settings.guard in ("off", "rules"):
        return RuleGuard() if settings.guard == "rules" else None
    try:
        client = http.client(httpx.AsyncClient, settings.guard, timeout=settings.guard_timeout_s)
    except httpx.HTTPError as error:
        _refuse(f"GATEWAY_GUARD: {error}")
    return HttpGuard(client, settings.guard, settings.guard_fails == "open")


def _judge(settings: GatewaySettings) -> JudgeEndpoint | None:
    """Returns the judge of shadow RAG, or None if there is no shadow."""
    if not settings.shadow_share:
        return None
    url, key = settings.shadow_judge_url, settings.shadow_judge_key
    try:
        client = http.client(httpx.AsyncClient, url, timeout=settings.shadow_judge_timeout_s)
    except httpx.HTTPError as error:
        _refuse(f"GATEWAY_SHADOW_JUDGE_URL: {error}")
    secret = key.get_secret_value() if key else ""
    return JudgeEndpoint(client, url, settings.shadow_judge_model, secret, _JUDGE_PATIENCE_S)


def _keys(settings: GatewaySettings) -> tuple[KeyStore | None, Counters]:
    """Returns the store of keys and the counters of their use.

    Refuses a configuration that lets everybody in by mistake.
    """
    where, redis_url = settings.key_store(), settings.redis_url
    is_reached = settings.is_reached_from_elsewhere()
    if not where and is_reached and not settings.open_to_all:
        _refuse(
            f"GATEWAY_KEYS: other machines reach the gateway ({settings.published or settings.host}), so it must ask "
            "for keys: GATEWAY_KEYS=redis or a file; GATEWAY_OPEN_TO_ALL=true lets everybody in"
        )
    if not where:
        log.warning("no keys are asked for", reached_by="everybody" if is_reached else "this machine alone")
    try:
        keys = open_store(where, _REDIS_TIMEOUT_S) if where else None
        shared = RedisCounters(redis_url.get_secret_value(), _REDIS_TIMEOUT_S) if redis_url else None
    except KeysError as error:
        _refuse(f"GATEWAY_REDIS_URL: {error}")
    return keys, SpareCounters(shared) if shared else MemoryCounters()


async def _tell_if_nobody_has_a_key(keys: KeyStore) -> None:
    with suppress(KeysError):  # readiness tells
        if not await keys.all():
            log.warning("there are no keys yet, so nobody is let in; `search-agent keys create` makes one")


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
