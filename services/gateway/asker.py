"""The front through which every protocol asks questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from common import context, metrics
from search_agent.agents import Agent
from search_agent.conversation import Write, condense
from search_agent.errors import BoundaryError
from search_agent.parameters import BadParameter
from search_agent.types import Completion, Event, Message, Question
from services.gateway import caller
from services.gateway.limits import Meter
from services.gateway.methods import Methods
from services.gateway.player import Finished, Player
from services.gateway.problems import BadField, TooBusy

# The part of a request for which a model's service has a word of its own.
_BLAMED = {
    ("searcher", "sampling.max_tokens"): "turn_tokens",
    ("searcher", "sampling.temperature"): "temperature",
    ("searcher", "sampling.grammar"): "constrained",
    ("searcher", "messages"): "question",
    ("generator", "sampling.max_tokens"): "reasoning_tokens",
    ("generator", "messages"): "question",
}
_FIELDS = ("question", "options", "instructions")


@dataclass(frozen=True, slots=True)
class Ask:
    """A question for a method or configuration, whatever the protocol that brings it.

    `history` are the earlier messages of a conversation. `options` are texts by letter, of which the generator chooses
    one, and `instructions` tell it how to answer. `max_documents` is the answer's passage budget; `max_tokens` can only
    make the longest answer shorter. `place` returns where the protocol's request has a field of this class or a
    parameter; errors name that.
    """

    question: str
    method: str = "s3"
    parameters: Mapping[str, object] = field(default_factory=dict)
    max_documents: int | None = None
    max_tokens: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    instructions: str = ""
    history: Sequence[Message] = ()
    with_answer: bool = True
    place: Callable[[str], str] = str


class Asker:
    """Takes a slot and one of the caller's, picks the agent, plays the question, and places errors in the request.

    With `rewrite`, the question of a conversation is rewritten first so that it needs no earlier message.
    """

    def __init__(
        self,
        player: Player,
        methods: Methods,
        max_in_flight: int,
        rewrite: Write | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.methods = methods
        self._player, self._max, self._rewrite = player, max_in_flight, rewrite
        self._slots, self._meter = asyncio.Semaphore(max_in_flight), meter or Meter()

    async def events(self, ask: Ask) -> AsyncGenerator[Event | Finished, None]:
        """Yields each turn, then Found, then the pieces of the answer if one is asked for, then Finished.

        Holds a slot until it is exhausted or closed. Closing it stops the models' work.
        Raises Refused (TooBusy, TooMany, BadField) and BoundaryError.
        """
        async with self._slot():
            agent = await self._agent(ask)
            try:
                rewritten = Completion(ask.question)
                if ask.history and self._rewrite:
                    rewritten = await condense(ask.history, ask.question, self._rewrite)
                question = Question(
                    context.request_id(), rewritten.text, options=ask.options, instructions=ask.instructions
                )
                played = self._player.play(agent, question, ask.max_documents, ask.with_answer, ask.max_tokens)
                async with aclosing(played):
                    async for event in played:
                        yield _with_cost(event, rewritten) if isinstance(event, Finished) else event
            except BoundaryError as error:
                blamed = _BLAMED.get((error.boundary, error.field), error.field)
                if blamed in _FIELDS or hasattr(agent.params, blamed):
                    error.field = ask.place(blamed)
                raise

    async def ask(self, ask: Ask) -> Finished:
        """Waits for the end of the question. Raises as `events` does."""
        async with aclosing(self.events(ask)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event
        raise AssertionError("a question ends in Finished or in an error")

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._slots.locked():
            raise TooBusy(f"the gateway is working on {self._max} questions, its limit")
        async with self._slots, self._meter.question(caller.current()):
            metrics.HTTP_IN_FLIGHT.inc()
            try:
                yield
            finally:
                metrics.HTTP_IN_FLIGHT.dec()

    async def _agent(self, ask: Ask) -> Agent:
        if ask.method not in self.methods.names:
            raise BadField(ask.place("method"), f"must be one of {', '.join(self.methods.names)}")
        agent = await self.methods.agent(ask.method)
        try:
            return agent.with_params(ask.parameters)
        except BadParameter as error:
            raise BadField(ask.place(error.field), error.message) from None


def _with_cost(finished: Finished, rewritten: Completion) -> Finished:
    """Adds the tokens of the rewriting to the question's."""
    spent = finished.trajectory.usage
    usage = replace(
        spent,
        prompt_tokens=spent.prompt_tokens + rewritten.prompt_tokens,
        completion_tokens=spent.completion_tokens + rewritten.completion_tokens,
    )
    return replace(finished, trajectory=replace(finished.trajectory, usage=usage))
