"""Answers one question with one method, for every route that takes questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from common.indexes import IndexEditor
from search_agent.agents import Agent
from search_agent.agents.naive_rag import NaiveRagParams
from search_agent.rag_cache import RagKey
from search_agent.types import Event, Found, Mode, Piece, Question, Retrieval, Sampling, Timings, Trajectory
from search_agent.world import Embedder, Guard, Retriever, Searcher, Whole, World, Writer, index_named
from services.gateway import traced
from services.gateway.cache import RagCache


class Retrieving(Retriever, Embedder, IndexEditor, Protocol):
    """A retriever service."""


@dataclass(frozen=True)
class Backends:
    """Everything that the gateway calls. `cache` is None if no Redis is configured.

    `searchers` and `generators` have the models of methods that do not use the common ones, by method. `replicas` has
    a client for each of the services that hold a model, by the model.
    """

    retriever: Retrieving
    searcher: Searcher
    generator: Writer
    cache: RagCache | None
    searchers: Mapping[str, Searcher] = field(default_factory=dict)
    generators: Mapping[str, Writer] = field(default_factory=dict)
    guard: Guard | None = None
    replicas: Mapping[object, Sequence[Any]] = field(default_factory=dict)

    def searcher_of(self, method: str) -> Searcher:
        """Returns the method's own searcher or, without one, the common one."""
        return self.searchers.get(method, self.searcher)

    def generator_of(self, method: str) -> Writer:
        """Returns the method's own generator or, without one, the common one."""
        return self.generators.get(method, self.generator)

    def world(self, method: str, whole: bool) -> World:
        """Returns the world of a method's episodes, whose answers are `whole` or come in pieces."""
        generator = self.generator_of(method)
        answers = Whole(generator) if whole else generator
        return World(self.retriever, self.searcher_of(method), answers, guard=self.guard)


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a question. `cache_key` is the trajectory's key in the cache, empty if it is not there."""

    trajectory: Trajectory
    cached: bool = False
    cache_key: str = ""


class Player:
    """Plays questions through agents, and looks naive RAG's results up in the cache."""

    def __init__(self, backends: Backends, answer: Sampling) -> None:
        self._backends = backends
        self._answer = answer

    async def play(
        self,
        agent: Agent,
        question: Question,
        max_documents: int | None,
        with_answer: bool,
        max_tokens: int | None = None,
        admit: Callable[[], AbstractContextManager[None]] = nullcontext,
        tell: Callable[[Event], None] | None = None,
    ) -> Finished:
        """Tells each turn, then Found, then the pieces of the answer if one is asked for.

        Without `tell`, the generator's text comes in one piece. `max_tokens` makes the longest answer shorter. A
        question that is not in the cache is played within `admit`. Raises BoundaryError, and what `admit` raises.
        """
        longest = self._answer.max_tokens
        sampling = replace(self._answer, max_tokens=min(max_tokens or longest, longest))
        world, started = self._backends.world(agent.name, whole=tell is None), time.perf_counter()
        tell = tell or (lambda event: None)
        cache = self._backends.cache if with_answer else None
        key = await self._rag_key(agent, question, max_documents, world, sampling) if cache else None
        digest = key.digest() if key else ""
        if cache and digest and (stored := await cache.get(digest)) and await self._passes(stored):
            for turn in stored.turns:
                tell(turn)
            tell(Found(stored.documents, cached=True))
            tell(Piece(stored.answer or ""))
            trajectory = replace(stored, timings=Timings(total=(time.perf_counter() - started) * 1e3))
            return Finished(trajectory, cached=True, cache_key=digest)
        with admit():
            answer = sampling if with_answer else None
            trajectory = await traced.play(agent, question, world, answer, max_documents, tell)
        # Where a model was loaded or an index changed meanwhile, the key is not this answer's.
        # Another guard may drop less.
        known = key and key.made(trajectory) and not trajectory.dropped
        ours = cache and known and await cache.put(digest, trajectory)
        return Finished(trajectory, cache_key=digest if ours else "")

    async def fitted(self, agent: Agent, asked: Container[str]) -> Agent:
        """Returns the agent without a mode or reranker that its index lacks, unless they were `asked` for.

        A searcher is taught on one index, and then asked over any. Raises RetrieverError.
        """
        how = agent.params
        if not isinstance(how, Retrieval) or (how.mode is Mode.AUTO and not how.rerank):
            return agent
        index = index_named(await self._backends.retriever.indexes(), how.index)
        fit = {
            "mode": index.fitting(how.mode),
            "rerank": how.rerank if index.reranker else 0,
        }
        return agent.with_params({name: value for name, value in fit.items() if name not in asked})

    async def index_versions(self) -> Hashable:
        """Returns the names and versions of the caller's indexes. Raises RetrieverError."""
        return tuple((index.name, index.version) for index in await self._backends.retriever.indexes())

    async def _passes(self, stored: Trajectory) -> bool:
        """Returns whether the guard accepts a stored result, which it may never have seen."""
        guard = self._backends.guard
        if not guard:
            return True
        answer = (stored.answer or "") if guard.reads_answers else ""
        verdicts = [await traced.check(guard, stored.question, turn.retrieved) for turn in stored.turns]
        if answer:
            verdicts.append(await traced.check(guard, stored.question, stored.passages, answer))
        return not any(verdict.dropped or verdict.refused for verdict in verdicts)

    async def _rag_key(
        self, agent: Agent, question: Question, max_documents: int | None, world: World, answer: Sampling
    ) -> RagKey | None:
        """Returns the key of naive RAG without instructions on an index with a version, or None."""
        if not isinstance(agent.params, NaiveRagParams) or question.instructions:
            return None
        index, model = await world.index(agent.params.index), await world.generator.info()
        if not index.version:
            return None
        return RagKey.of(agent, question, index, model.model, answer.max_tokens, max_documents)
