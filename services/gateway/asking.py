"""One question through one method: what every route of the gateway that answers questions does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from common import metrics
from search_agent.agents import Agent
from search_agent.agents.naive_rag import NaiveRagParams
from search_agent.errors import BoundaryError
from search_agent.rag_cache import RagKey
from search_agent.types import Event, Found, Piece, Question, Sampling, Timings, Trajectory
from search_agent.world import Generator, Retriever, Searcher, World
from services.gateway.cache import RagCache

log = structlog.get_logger()


@dataclass(frozen=True)
class Backends:
    """Everything the gateway talks to. `cache` is None where no Redis is configured.

    `searchers` holds, by method, those of methods that have one of their own.
    """

    retriever: Retriever
    searcher: Searcher
    generator: Generator
    cache: RagCache | None
    searchers: Mapping[str, Searcher] = field(default_factory=dict)

    def world(self, method: str) -> World:
        """Returns the world of a method's episodes."""
        return World(self.retriever, self.searchers.get(method, self.searcher), self.generator)


@dataclass(frozen=True, slots=True)
class Done:
    """The whole trajectory. `cache_key` is where the cache has it, empty where it does not."""

    trajectory: Trajectory
    cached: bool = False
    cache_key: str = ""


class Asker:
    """Runs agents against the backends, through the naive-RAG cache, and counts what happens."""

    def __init__(self, backends: Backends, answer: Sampling) -> None:
        self._backends = backends
        self._answer = answer

    async def ask(
        self, agent: Agent, question: Question, max_documents: int | None, with_answer: bool
    ) -> AsyncGenerator[Event | Done, None]:
        """Yields each turn, then Found, then with an answer its pieces, then Done.

        Raises BoundaryError; it is counted here and nowhere else.
        """
        world, started, stored = self._backends.world(agent.name), time.perf_counter(), ""
        try:
            key = await self._rag_key(agent, question, max_documents, world) if with_answer else None
            cached = await self._backends.cache.get(key) if key and self._backends.cache else None
            if cached:
                for turn in cached.turns:
                    yield turn
                yield Found(cached.documents, cached=True)
                yield Piece(cached.answer or "")
                stored = key.digest() if key else ""
                done = replace(cached, timings=Timings(total=(time.perf_counter() - started) * 1e3))
            else:
                answer = self._answer if with_answer else None
                async with aclosing(_events(partial(agent.play, question, world, answer, max_documents))) as events:
                    async for event in events:
                        if isinstance(event, Trajectory):
                            done = event
                        else:
                            yield event
                if key and self._backends.cache and key.generator in done.models:
                    stored = key.digest() if await self._backends.cache.put(key, done) else ""
        except BoundaryError as error:
            count_failure(error)
            raise
        _count(done)
        yield Done(done, cached=bool(cached), cache_key=stored)

    async def _rag_key(
        self, agent: Agent, question: Question, max_documents: int | None, world: World
    ) -> RagKey | None:
        """The versions are asked for anew each time: a promoted model or index must miss."""
        if self._backends.cache is None or not isinstance(agent.params, NaiveRagParams):
            return None
        index, model = await asyncio.gather(world.index(agent.params.index), world.generator.info())
        return RagKey.of(agent, question, index, model.model, self._answer.max_tokens, max_documents)


async def _events(
    play: Callable[[Callable[[Event], None]], Awaitable[Trajectory]],
) -> AsyncGenerator[Event | Trajectory, None]:
    """Plays an episode and yields its events as they happen, then its trajectory; leaving early stops it."""
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    task = asyncio.ensure_future(play(queue.put_nowait))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (event := await queue.get()) is not None:
            yield event
        yield await task
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
