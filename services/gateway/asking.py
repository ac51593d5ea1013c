"""One question through one method: what every route of the gateway that answers questions does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from common import metrics
from contracts.v1.generator_pb2 import ModelInfoResponse
from contracts.v1.retriever_pb2 import IndexInfo
from search_agent.agents import Agent
from search_agent.agents.naive_rag import NaiveRagParams
from search_agent.episode import Episode
from search_agent.errors import BoundaryError, Failure, RetrieverError
from search_agent.ports import Generator, Policy, Retriever
from search_agent.rag_cache import RagKey
from search_agent.types import Sampling, Timings, Trajectory, Turn
from services.gateway.cache import RagCache

log = structlog.get_logger()


class RetrieverBackend(Retriever, Protocol):
    async def indexes(self) -> Sequence[IndexInfo]: ...


class SearcherBackend(Policy, Protocol):
    async def info(self) -> ModelInfoResponse: ...


class GeneratorBackend(Generator, Protocol):
    async def info(self) -> ModelInfoResponse: ...


@dataclass(frozen=True)
class Backends:
    """All that the gateway talks to. `cache` is None where no Redis is configured.

    `searchers` holds, by method, those of methods that have one of their own.
    """

    retriever: RetrieverBackend
    searcher: SearcherBackend
    generator: GeneratorBackend
    cache: RagCache | None
    searchers: Mapping[str, SearcherBackend] = field(default_factory=dict)

    def searcher_of(self, method: str) -> SearcherBackend:
        return self.searchers.get(method, self.searcher)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `options` (text by letter) are for the generator, not for the search; at most
    `max_documents` of the kept passages are read."""

    text: str
    options: Mapping[str, str] = field(default_factory=dict)
    max_documents: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The documents are settled; the answer, if asked for, comes next. `cached` says where from."""

    trajectory: Trajectory
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The whole trajectory. `cache_key` is where the cache has it, empty where it does not."""

    trajectory: Trajectory
    cached: bool = False
    cache_key: str = ""


Event = Turn | Found | Delta | Done


class Asker:
    """Runs agents against the backends, through the naive-RAG cache, and counts what happens."""

    def __init__(self, backends: Backends, answer: Sampling) -> None:
        self._backends = backends
        self._answer = answer

    async def ask(self, agent: Agent, question: Question, with_answer: bool) -> AsyncIterator[Event]:
        """Yields each turn, then Found, then with an answer its pieces, then Done.

        Raises BoundaryError; it is counted here and nowhere else.
        """
        started, stored = time.perf_counter(), ""
        try:
            key = await self._rag_key(agent, question) if with_answer else None
            cached = await self._backends.cache.get(key) if key and self._backends.cache else None
            if cached:
                for turn in cached.turns:
                    yield turn
                yield Found(replace(cached, answer=None), cached=True)
                yield Delta(cached.answer or "")
                stored = key.digest() if key else ""
                done = replace(cached, timings=Timings(total=(time.perf_counter() - started) * 1e3))
            else:
                episode = self._episode(agent, question)
                async for turn in _turns(agent, episode):
                    yield turn
                yield Found(episode.trajectory())
                if with_answer:
                    async for text in episode.answer(agent.prompt, self._answer):
                        yield Delta(text)
                done = episode.trajectory()
                if key and self._backends.cache and key.generator in done.models:
                    stored = key.digest() if await self._backends.cache.put(key, done) else ""
        except BoundaryError as error:
            count_failure(error)
            raise
        _count(done)
        yield Done(done, cached=bool(cached), cache_key=stored)

    def _episode(self, agent: Agent, question: Question) -> Episode:
        backends = self._backends
        return Episode(
            agent.name,
            question.text,
            backends.retriever,
            backends.searcher_of(agent.name),
            backends.generator,
            question.options,
            question.max_documents,
        )

    async def _rag_key(self, agent: Agent, question: Question) -> RagKey | None:
        """The versions are asked for anew each time: a promoted model or index must miss."""
        if self._backends.cache is None or not isinstance(agent.params, NaiveRagParams):
            return None
        params = agent.params
        indexes, model = await asyncio.gather(self._backends.retriever.indexes(), self._backends.generator.info())
        for index in indexes:
            if index.name == params.index or (not params.index and index.is_default):
                return RagKey.of(
                    params,
                    agent.prompt,
                    question.text,
                    question.options,
                    question.max_documents,
                    corpus=index.name,
                    index_version=index.version,
                    encoder=index.encoder,
                    reranker=index.reranker,
                    generator=model.model,
                    max_tokens=self._answer.max_tokens,
                )
        raise RetrieverError(Failure.NOT_FOUND, f"no index is called {params.index!r}", "index")


async def _turns(agent: Agent, episode: Episode) -> AsyncIterator[Turn]:
    """Runs the agent and yields its turns as they end; leaving early stops it."""
    queue: asyncio.Queue[Turn | None] = asyncio.Queue()
    episode.on_turn = queue.put_nowait
    task = asyncio.create_task(agent.run(episode))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (turn := await queue.get()) is not None:
            yield turn
        await task
    finally:
        task.cancel()


def count_failure(error: BoundaryError) -> None:
    """Counts and logs a failed backend call; to be called once for each."""
    metrics.AGENT_FAILURES.labels(error.boundary, error.failure).inc()
    log.warning(
        "backend failed", boundary=error.boundary, failure=error.failure, error=str(error), cause=str(error.__cause__)
    )


def _count(trajectory: Trajectory) -> None:
    method, timings = trajectory.method, trajectory.timings
    metrics.AGENT_QUESTIONS.labels(method, trajectory.stop_reason).inc()
    for stage in ("total", "retrieve", "search", "generate"):
        metrics.AGENT_STAGE_SECONDS.labels(method, stage).observe(getattr(timings, stage) / 1e3)
    metrics.AGENT_SEARCHES.labels(method).observe(trajectory.usage.searches)
    metrics.AGENT_DOCUMENTS.labels(method).observe(len(trajectory.documents))
    metrics.AGENT_INVALID_TURNS.labels(method).inc(sum(bool(turn.error) for turn in trajectory.turns))
    log.info(
        "question answered" if trajectory.answer is not None else "documents found",
        method=method,
        stop_reason=trajectory.stop_reason,
        turns=len(trajectory.turns),
        documents=len(trajectory.documents),
        total_ms=round(timings.total, 1),
    )
