"""An episode whose turns, searches, moves, checks and answer are spans."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence

from common import tracing
from search_agent.agents import Agent
from search_agent.types import (
    Completion,
    Event,
    IndexInfo,
    Message,
    ModelInfo,
    Passage,
    Question,
    Rankings,
    Retrieval,
    Sampling,
    Span,
    Trajectory,
    Turn,
    Verdict,
)
from search_agent.world import Guard, World

_PROVIDER = "search_agent"


async def play(
    agent: Agent,
    question: Question,
    world: World,
    answer: Sampling | None,
    max_documents: int | None,
    tell: Callable[[Event], None],
) -> Trajectory:
    """Plays an episode, under spans if its request is traced."""
    if not tracing.current().records:
        return await agent.play(question, world, answer, max_documents, tell)
    traced = _Traced(world)
    try:
        return await agent.play(question, traced.world(), answer, max_documents, traced.telling(tell))
    finally:
        traced.end_turn()


async def check(
    guard: Guard, question: str, passages: Sequence[Passage], answer: str = "", under: tracing.Span | None = None
) -> Verdict:
    """Asks a guard, under a span of its own below `under` or the current one."""
    attributes = {"search_agent.guard.passages": len(passages), "search_agent.guard.reads_answer": bool(answer)}
    with tracing.span("guard", attributes, under=under) as span:
        verdict = await guard.check(question, passages, answer)
        dropped, refused = len(verdict.dropped), bool(verdict.refused)
        span.set({"search_agent.guard.dropped": dropped, "search_agent.guard.refused": refused})
        return verdict


def asked(method: str, question: str) -> tracing.Span:
    """Returns the span of a question that a method is to answer."""
    attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.agent.name": method,
    }
    span = tracing.span(f"invoke_agent {method}", attributes)
    if span.reveals:
        span.set({"gen_ai.input.messages": _messages([("user", question)])})
    return span


def finished(span: tracing.Span, trajectory: Trajectory, cached: bool) -> None:
    """Records in an agent's span how it ended."""
    if not span.records:
        return
    span.set(
        {
            "gen_ai.usage.input_tokens": trajectory.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": trajectory.usage.completion_tokens,
            "search_agent.stop_reason": trajectory.stop_reason,
            "search_agent.turns": len(trajectory.turns),
            "search_agent.searches": trajectory.usage.searches,
            "search_agent.documents": len(trajectory.documents),
            "search_agent.cached": cached,
        }
    )
    if span.reveals:
        span.set({"gen_ai.output.messages": _messages([("assistant", trajectory.answer or "")])})


class _Traced:
    """The ports of one episode. A turn begins with its first call and ends when the agent tells it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._turn: tracing.Span | None = None
        self._turns = 0
        self.reads_answers = bool(world.guard and world.guard.reads_answers)

    def world(self) -> World:
        """Returns the world that the agent is given."""
        return World(self, self, self, guard=self if self._world.guard else None)

    def telling(self, tell: Callable[[Event], None]) -> Callable[[Event], None]:
        """Returns `tell`, which ends the turns too."""

        def told(event: Event) -> None:
            if isinstance(event, Turn):
                self.end_turn(event)
            tell(event)

        return told

    def end_turn(self, turn: Turn | None = None) -> None:
        if self._turn and turn:
            self._turn.set(
                {
                    "search_agent.turn.retrieved": len(turn.retrieved),
                    "search_agent.turn.selected": len(turn.selected),
                    "search_agent.turn.malformed": bool(turn.error),
                }
            )
        if self._turn:
            self._turn.end()
        self._turn = None

    def _in_turn(self, name: str, attributes: tracing.Attributes) -> tracing.Span:
        if not self._turn:
            self._turns += 1
            self._turn = tracing.span(f"turn {self._turns}", {"search_agent.turn.number": self._turns})
        return tracing.span(name, attributes, under=self._turn)

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        attributes = {
            "gen_ai.operation.name": "retrieval",
            "gen_ai.data_source.id": how.index or None,
            "gen_ai.request.top_k": how.top_k,
            "search_agent.retrieval.mode": how.mode,
            "search_agent.retrieval.rerank": how.rerank,
        }
        with self._in_turn("retrieval", attributes) as span:
            found = await self._world.retriever.search(queries, how)
            span.set({"gen_ai.data_source.id": found.served, "search_agent.retrieval.passages": sum(map(len, found))})
            if span.reveals:
                span.set({"gen_ai.retrieval.query.text": "\n".join(queries)})
                span.set({"gen_ai.retrieval.documents": _documents(found)})
            return found

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        with self._in_turn("chat searcher", _asked_for(sampling)) as span:
            if span.reveals:
                span.set({"gen_ai.input.messages": _messages([("user", "".join(each.text for each in spans))])})
            completion = await self._world.searcher.complete(spans, sampling)
            _written(span, completion, completion.text)
            return completion

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        self.end_turn()
        with tracing.span("chat generator", _asked_for(sampling)) as span:
            if span.reveals:
                span.set({"gen_ai.input.messages": _messages([(each.role, each.content) for each in messages])})
            texts = []
            async for piece in self._world.generator.stream(messages, sampling):
                texts.append(piece.text)
                if piece.finish_reason:
                    _written(span, piece, "".join(texts))
                yield piece

    async def check(self, question: str, passages: Sequence[Passage], answer: str = "") -> Verdict:
        assert self._world.guard
        return await check(self._world.guard, question, passages, answer, self._turn)

    async def indexes(self) -> Sequence[IndexInfo]:
        return await self._world.retriever.indexes()

    async def info(self) -> ModelInfo:
        return await self._world.generator.info()


def _asked_for(sampling: Sampling) -> tracing.Attributes:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
    }


def _written(span: tracing.Span, last: Completion, text: str) -> None:
    span.set(
        {
            "gen_ai.response.model": last.model or None,
            "gen_ai.response.finish_reasons": [last.finish_reason] if last.finish_reason else None,
            "gen_ai.usage.input_tokens": last.prompt_tokens,
            "gen_ai.usage.output_tokens": last.completion_tokens,
        }
    )
    if span.reveals:
        span.set({"gen_ai.output.messages": _messages([("assistant", text)])})


def _messages(said: Sequence[tuple[str, str]]) -> str:
    parts = [{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in said]
    return json.dumps(parts, ensure_ascii=False)


def _documents(found: Rankings) -> str:
    listed = [
        {"id": each.id, "score": each.score, "title": each.title, "content": each.text}
        for passages in found
        for each in passages
    ]
    return json.dumps(listed, ensure_ascii=False)
