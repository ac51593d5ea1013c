"""The front through which every protocol asks questions."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from common import context, metrics
from search_agent.agents import Agent
from search_agent.conversation import Write, condense
from search_agent.errors import BoundaryError, Failure
from search_agent.parameters import BadParameter
from search_agent.types import Completion, Event, Message, Question, Retrieval, Trajectory
from services.gateway import caller, traced
from services.gateway.capacity import Capacity
from services.gateway.flights import Flights, Tell
from services.gateway.limits import Meter
from services.gateway.methods import Methods
from services.gateway.observed import count_question
from services.gateway.player import Finished, Player
from services.gateway.problems import BadField

log = structlog.get_logger()

# The part of a request for which a model's service has a word of its own.
_BLAMED = {
    ("searcher", "sampling.max_tokens"): "turn_tokens",
    ("searcher", "sampling.temperature"): "temperature",
    ("searcher", "sampling.grammar"): "constrained",
    ("searcher", "messages"): "question",
    ("generator", "sampling.max_tokens"): "reasoning_tokens",
    ("generator", "messages"): "question",
}
_WORKED_S = 1.5  # a backend that is away from the start fails sooner
_PAUSES_S = (1.0, 2.0, 4.0)  # a service takes some seconds to start again
_FIELDS = ("question", "options", "instructions")


Offer = Callable[[Agent, Question, int | None, Trajectory], None]
_Tell = Tell[Event | Finished]
_Play = Callable[[Agent, "Ask", _Tell], Awaitable[None]]


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
    """Picks the agent, has the question admitted and played, and places errors in the request.

    The same question under way twice is played once. With `rewrite`, the question of a conversation is rewritten first
    so that it needs no earlier message.
    """

    def __init__(
        self,
        player: Player,
        methods: Methods,
        capacity: Capacity,
        rewrite: Write | None = None,
        meter: Meter | None = None,
        offer: Offer | None = None,
    ) -> None:
        """`offer` hears of every question that was played, with the most tokens that its answer might have."""
        self.methods = methods
        self._player, self._capacity, self._rewrite, self._offer = player, capacity, rewrite, offer
        self._meter = meter or Meter()
        self._flights: Flights[Event | Finished] = Flights()

    async def events(self, ask: Ask) -> AsyncGenerator[Event | Finished, None]:
        """Yields each turn, then Found, then the pieces of the answer if one is asked for, then Finished.

        Closing it stops the models' work, unless another caller waits for the same.
        Raises Refused (TooBusy, TooLittleTime, TooMany, BadField) and BoundaryError.
        """
        async with aclosing(self._shared(ask, self._played)) as events:
            async for event in events:
                yield event

    async def ask(self, ask: Ask) -> Finished:
        """Waits for the end of the question. Raises as `events` does."""
        async with aclosing(self._shared(ask, self._end)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event
        raise AssertionError("a question ends in Finished or in an error")

    async def _shared(self, ask: Ask, play: _Play) -> AsyncGenerator[Event | Finished, None]:
        """Yields the events of `play`, those of the same question under way if there is one."""
        async with self._meter.question(caller.current()):
            agent = await self._agent(ask)
            try:
                agent = await self._player.fitted(agent, ask.parameters)
                key = await self._key(agent, ask, play)
                if getattr(agent.params, "temperature", 0):
                    key = object()  # nobody shares what is sampled
                if key in self._flights:
                    metrics.ADMISSIONS.labels(agent.name, "shared").inc()
                async with aclosing(self._flights.join(key, partial(_again, partial(play, agent, ask)))) as events:
                    async for event in events:
                        yield event
            except BoundaryError as error:
                raise _placed(error, agent, ask) from error.__cause__

    async def _played(self, agent: Agent, ask: Ask, tell: _Tell) -> None:
        """Plays the question for a caller who reads along."""
        tell(await self._play(agent, ask, tell))

    async def _end(self, agent: Agent, ask: Ask, tell: _Tell) -> None:
        """Plays the question for a caller who wants nothing before its end."""
        tell(await self._play(agent, ask, None))

    async def _play(self, agent: Agent, ask: Ask, tell: _Tell | None) -> Finished:
        index = agent.params.index if isinstance(agent.params, Retrieval) else ""
        admit = partial(self._capacity.work, agent.name, _who(agent, ask), index=index)
        rewrite = self._rewrite if ask.history else None
        with (
            admit() if rewrite else nullcontext(),
            metrics.HTTP_IN_FLIGHT.track_inprogress(),
            traced.asked(agent.name, ask.question) as span,
        ):
            rewritten = await condense(ask.history, ask.question, rewrite) if rewrite else Completion(ask.question)
            question = Question(
                context.request_id(), rewritten.text, options=ask.options, instructions=ask.instructions
            )
            played = await self._player.play(
                agent, question, ask.max_documents, ask.with_answer, ask.max_tokens,
                nullcontext if rewrite else admit, tell,
            )  # fmt: skip
            count_question(played.trajectory)
            if self._offer:
                self._offer(agent, question, ask.max_tokens, played.trajectory)
            finished = _with_cost(played, rewritten)
            traced.finished(span, finished.trajectory, finished.cached)
            return finished

    async def _key(self, agent: Agent, ask: Ask, play: _Play) -> Hashable:
        """Returns everything that the events depend on."""
        searches = isinstance(agent.params, Retrieval)
        return (
            play, _who(agent, ask), ask.max_documents, ask.max_tokens, tuple(ask.options.items()), ask.with_answer,
            caller.current().indexes, searches and await self._player.index_versions(),
        )  # fmt: skip

    async def _agent(self, ask: Ask) -> Agent:
        if ask.method not in self.methods.names:
            raise BadField(ask.place("method"), f"must be one of {', '.join(self.methods.names)}")
        agent = await self.methods.agent(ask.method)
        try:
            return agent.with_params(ask.parameters)
        except BadParameter as error:
            raise BadField(ask.place(error.field), error.message) from None


async def _again(play: Callable[[_Tell], Awaitable[None]], tell: _Tell) -> None:
    """Plays a question again whose backend was lost while it worked on it, if the caller has not seen anything yet."""
    began, pauses, told = time.monotonic(), iter(_PAUSES_S), False

    def telling(event: Event | Finished) -> None:
        nonlocal told
        told = True
        tell(event)

    while True:
        try:
            return await play(telling)
        except BoundaryError as error:
            pause_s = next(pauses, 0.0)
            is_lost = error.failure is Failure.UNAVAILABLE and time.monotonic() - began > _WORKED_S
            if told or not is_lost or not 0 < pause_s < context.time_left(math.inf):
                raise
            log.warning("question is asked again", boundary=error.boundary)
        await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))


def _who(agent: Agent, ask: Ask) -> Hashable:
    """Returns what tells a question from others."""
    return agent.name, repr(agent.params), ask.question, ask.instructions, tuple(ask.history)


def _placed(error: BoundaryError, agent: Agent, ask: Ask) -> BoundaryError:
    """Returns the error with the field of this protocol's request that it is about."""
    placed = copy(error)  # other callers may wait for the same
    blamed = _BLAMED.get((error.boundary, error.field), error.field)
    if blamed in _FIELDS or hasattr(agent.params, blamed):
        placed.field = ask.place(blamed)
    return placed


def _with_cost(finished: Finished, rewritten: Completion) -> Finished:
    """Adds the tokens of the rewriting to the question's."""
    if not rewritten.tokens:
        return finished
    spent = finished.trajectory.usage
    usage = replace(
        spent,
        prompt_tokens=spent.prompt_tokens + rewritten.prompt_tokens,
        completion_tokens=spent.completion_tokens + rewritten.completion_tokens,
    )
    return replace(finished, trajectory=replace(finished.trajectory, usage=usage))
