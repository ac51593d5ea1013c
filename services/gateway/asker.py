"""The front through which every protocol asks questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from common import context, metrics
from search_agent.agents import Agent
from search_agent.errors import BoundaryError
from search_agent.parameters import BadParameter
from search_agent.types import Event, Question
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


@dataclass(frozen=True, slots=True)
class Ask:
    """A question for a method, whatever the protocol that brings it.

    `options` are texts by letter, of which the generator chooses one. `max_documents` is the passage budget of the
    answer. `place` returns where the protocol's request has a field of this class or a parameter; errors name that.
    """

    question: str
    method: str = "s3"
    parameters: Mapping[str, object] = field(default_factory=dict)
    max_documents: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    with_answer: bool = True
    place: Callable[[str], str] = str


class Asker:
    """Picks the agent, takes a slot, plays the question, and places errors in the request."""

    def __init__(self, player: Player, methods: Methods, max_in_flight: int) -> None:
        self.methods = methods
        self._player, self._max = player, max_in_flight
        self._slots = asyncio.Semaphore(max_in_flight)

    async def events(self, ask: Ask) -> AsyncGenerator[Event | Finished, None]:
        """Yields each turn, then Found, then the pieces of the answer if one is asked for, then Finished.

        Holds a slot until it is exhausted or closed. Raises TooBusy, BadField and BoundaryError; closing it stops
        the models' work.
        """
        async with self._slot():
            agent = await self._agent(ask)
            question = Question(context.request_id(), ask.question, options=ask.options)
            try:
                async with aclosing(self._player.play(agent, question, ask.max_documents, ask.with_answer)) as played:
                    async for event in played:
                        yield event
            except BoundaryError as error:
                blamed = _BLAMED.get((error.boundary, error.field), error.field)
                if blamed in ("question", "options") or hasattr(agent.params, blamed):
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
        async with self._slots:
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
