"""The routes of the REST API, over the core's agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from common import context, metrics
from common.backends import GrpcTrainer
from common.rag_store import RagStore
from search_agent.agents import AGENTS, Agent
from search_agent.errors import BoundaryError
from search_agent.parameters import BadParameter
from search_agent.types import Event, Found, Piece, Question, Retrieval, Turn
from search_agent.world import Searcher
from services.gateway import problems, schemas
from services.gateway.methods import Methods
from services.gateway.observed import Observed
from services.gateway.player import Backends, Finished, Player
from services.gateway.streams import streamed, unless_caller_leaves
from services.gateway.training import routes

log = structlog.get_logger()
T = TypeVar("T")

# The part of a request for which a model's service has a word of its own.
_BLAMED = {
    ("searcher", "sampling.max_tokens"): "turn_tokens",
    ("searcher", "sampling.temperature"): "temperature",
    ("searcher", "sampling.grammar"): "constrained",
    ("searcher", "messages"): "question",
    ("generator", "sampling.max_tokens"): "reasoning_tokens",
    ("generator", "messages"): "question",
}


def create_app(
    backends: Backends,
    player: Player,
    methods: Methods,
    max_in_flight: int,
    trainer: GrpcTrainer | None = None,
) -> FastAPI:
    """Returns the application over the given backends and methods."""
    app = FastAPI(title="search-agent", version="1", description="Search, answer and retrieve.")
    app.add_middleware(Observed)
    problems.install(app)
    app.include_router(routes(trainer))
    slots = asyncio.Semaphore(max_in_flight)

    async def slot() -> AsyncIterator[None]:
        """Holds a slot until the response, streamed or not, has been sent or the caller has left."""
        if slots.locked():
            raise problems.TooBusy(f"the gateway is working on {max_in_flight} questions, its limit")
        async with slots:
            metrics.HTTP_IN_FLIGHT.inc()
            try:
                yield
            finally:
                metrics.HTTP_IN_FLIGHT.dec()

    async def agent_for(body: schemas.SearchRequest) -> Agent:
        if body.method not in AGENTS:
            raise problems.BadField("method", f"must be one of {', '.join(AGENTS)}")
        agent = await methods.agent(body.method)
        try:
            return agent.with_params(body.values())
        except BadParameter as error:
            raise problems.BadField(body.place(error.field), error.message) from None

    def store() -> RagStore:
        if backends.cache is None:
            raise problems.NotConfigured("no cache is configured (GATEWAY_REDIS_URL)")
        return backends.cache.store

    @app.post("/v1/search", tags=["questions"], dependencies=[Depends(slot)])
    async def search(body: schemas.SearchRequest, request: Request) -> schemas.SearchResponse:
        """Returns the passages that a method keeps for a question."""
        agent = await agent_for(body)
        question = Question(_request_id(), body.question)
        asked = _placed(body, agent, player.play(agent, question, body.max_documents, with_answer=False))
        finished = await unless_caller_leaves(request, _last(asked))
        return schemas.SearchResponse.of(_request_id(), finished.trajectory)

    @app.post(
        "/v1/answer",
        tags=["questions"],
        dependencies=[Depends(slot)],
        response_model=schemas.AnswerResponse,
    )
    async def answer(body: schemas.AnswerRequest, request: Request) -> Any:
        """Answers a question from the passages that a method keeps; `stream` returns Server-Sent Events."""
        agent = await agent_for(body)
        question = Question(_request_id(), body.question, options=body.options)
        asked = _placed(body, agent, player.play(agent, question, body.max_documents, with_answer=True))
        if not body.stream:
            finished = await unless_caller_leaves(request, _last(asked))
            return schemas.AnswerResponse.answered(_request_id(), finished)

        return await streamed(request, _named(asked))

    @app.post("/v1/retrieve", tags=["retrieval"])
    async def retrieve(body: schemas.RetrieveRequest) -> schemas.RetrieveResponse:
        """Returns the best passages for each query, best first."""
        how = Retrieval(body.top_k, body.index, body.mode, body.rerank)
        ranked = await backends.retriever.search(body.queries, how)
        return schemas.RetrieveResponse.model_validate({"results": ranked})

    @app.post("/retrieve", tags=["retrieval"])
    async def compatible_retrieve(body: schemas.CompatibleRetrieveRequest) -> dict[str, Any]:
        """Speaks the retrieval protocol of s3 and Search-R1, so that their clients work unchanged.

        A result a query, whatever the query. Contents are a line with the title in quotes, and the text, as in the
        corpora that those projects publish.
        """
        ranked = await backends.retriever.search(body.queries, Retrieval(body.topk or 3))
        results: list[list[dict[str, Any]]] = []
        for passages in ranked:
            documents = [{"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in passages]
            if body.return_scores:
                scored = zip(documents, passages, strict=True)
                results.append([{"document": document, "score": p.score} for document, p in scored])
            else:
                results.append(documents)
        return {"result": results}

    @app.get("/v1/methods", tags=["about"])
    async def list_methods() -> list[schemas.MethodOut]:
        """Returns the methods, with their parameters as JSON Schema and the defaults in force."""
        return [
            schemas.MethodOut(name=agent.name, summary=agent.summary, parameters=agent.schema())
            for agent in await methods.all()
        ]

    @app.get("/v1/indexes", tags=["about"])
    async def indexes() -> list[schemas.IndexOut]:
        """Returns the indexes that the retriever serves."""
        served = await backends.retriever.indexes()
        return [schemas.IndexOut.model_validate(index) for index in served]

    @app.get("/v1/cache", tags=["cache"])
    async def cache_statistics() -> schemas.CacheOut:
        """Counts the cached naive-RAG results by index version."""
        contents, served = await asyncio.gather(store().contents(), backends.retriever.indexes())
        current = {(index.name, index.version) for index in served}
        return schemas.CacheOut(
            indexes=[
                schemas.CachedIndexOut(
                    index=index, version=version, results=found.results, scored=found.scored,
                    current=(index, version) in current,
                )
                for (index, version), found in sorted(contents.items())
            ],
            lookups={
                sample.labels["result"]: int(sample.value)
                for family in metrics.CACHE_LOOKUPS.collect()
                for sample in family.samples
                if sample.name.endswith("_total")
            },
        )  # fmt: skip

    @app.delete("/v1/cache", tags=["cache"])
    async def clear_cache(index: str, version: str = "") -> schemas.ClearedOut:
        """Removes the cached results of an index, of one version or of all, precomputed ones too."""
        return schemas.ClearedOut(removed=await store().clear(index, version))

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """Answers while the process is up."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"])
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

    @app.get("/metrics", tags=["operation"], include_in_schema=False)
    async def exposition() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _searchers(backends: Backends) -> dict[str, Searcher]:
    """Names each searcher once: "searcher", and "searcher:method,…" for one that only those methods use."""
    methods: dict[Searcher, list[str]] = {backends.searcher: []}
    for method, searcher in backends.searchers.items():
        methods.setdefault(searcher, []).append(method)
    return {
        "searcher" if searcher is backends.searcher else f"searcher:{','.join(names)}": searcher
        for searcher, names in methods.items()
    }


def _request_id() -> str:
    return dict(context.metadata())[context.REQUEST_ID]


async def _placed(
    body: schemas.SearchRequest, agent: Agent, events: AsyncGenerator[T, None]
) -> AsyncGenerator[T, None]:
    """Yields the events. A failure that blames a part of the request names it as the request does."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except BoundaryError as error:
        blamed = _BLAMED.get((error.boundary, error.field), error.field)
        if blamed in body.model_fields_set or hasattr(agent.params, blamed):
            error.field = body.place(blamed)
        raise


async def _last(events: AsyncIterator[Event | Finished]) -> Finished:
    """Waits for the end of the question."""
    async for event in events:
        if isinstance(event, Finished):
            return event
    raise AssertionError("a question ends in Finished or in an error")


async def _state(check: Awaitable[object]) -> str:
    try:
        await asyncio.wait_for(check, 2)
    except BoundaryError as error:
        return f"{error.failure}: {error.message}"
    except TimeoutError:
        return "timeout: no answer in 2 s"
    return "ok"


async def _named(events: AsyncGenerator[Event | Finished, None]) -> AsyncGenerator[tuple[str, Any], None]:
    """Yields the events as names and data of the stream."""
    async with aclosing(events):
        async for event in events:
            yield _event(event)


def _event(event: Event | Finished) -> tuple[str, Any]:
    match event:
        case Turn():
            return "turn", schemas.TurnOut.model_validate(event)
        case Found():
            return "documents", schemas.FoundOut.model_validate(event)
        case Piece():
            return "answer.delta", {"text": event.text}
        case Finished():
            return "done", schemas.AnswerResponse.answered(_request_id(), event)
