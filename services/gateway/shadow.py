"""Shadow RAG: naive RAG answers some questions too, in the background, and a judge tells which answers are right."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import fields, replace

import structlog

from common import context, metrics, tracing
from common.keys import Limits
from search_agent.agents import AGENTS, Agent
from search_agent.agents.naive_rag import NaiveRagParams
from search_agent.errors import BoundaryError
from search_agent.grading.judge import Ruling
from search_agent.types import Passage, Question, Retrieval, Trajectory
from services.gateway import caller
from services.gateway.caller import Caller
from services.gateway.capacity import Capacity
from services.gateway.limits import Meter, TooMany
from services.gateway.player import Player
from services.gateway.problems import Refused, TooBusy

log = structlog.get_logger()

# Tells by the passages whether an answer is right. Raises JudgeError.
Judge = Callable[[Question, Sequence[Passage], str], Awaitable[Ruling]]

_PAUSE_S = 0.1  # the question itself holds no place any more after that
_NAIVE = AGENTS["naive_rag"]
_JUDGED = {
    (True, True): "both",
    (True, False): "only_method",
    (False, True): "only_naive_rag",
    (False, False): "neither",
}
_OUTCOMES = (*_JUDGED.values(), "dropped", "capped", "failed")


class Shadow:
    """Compares a share of the answers with those that naive RAG gives from as many passages.

    A comparison begins where the gateway has room to spare, and is dropped once a question needs the room. Its tokens
    count for a caller of its own, who may use `tokens_per_day`; those of the judge count too.
    """

    def __init__(
        self,
        player: Player,
        capacity: Capacity,
        meter: Meter,
        judge: Judge,
        share: float,
        tokens_per_day: int,
        time_limit_s: float = 300,
        excluded: Collection[str] = (),
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Questions of the keys in `excluded` (ids) are not compared. `draw` returns numbers from 0 up to 1."""
        self._player, self._capacity, self._meter, self._judge = player, capacity, meter, judge
        self._share, self._draw = share, draw
        self._limits = Limits(0, 0, tokens_per_day)
        self._time_limit_s, self._excluded = time_limit_s, excluded
        self._tasks: set[asyncio.Task[None]] = set()
        for agent in filter(_is_comparable, AGENTS.values()):
            for outcome in _OUTCOMES:  # so that Prometheus sees the first of each as a growth
                metrics.SHADOW_QUESTIONS.labels(agent.name, outcome)

    def offer(self, agent: Agent, question: Question, max_tokens: int | None, answered: Trajectory) -> None:
        """Compares an answer in the background if it is drawn, and if its caller has not opted out."""
        who = caller.current()
        if not _is_comparable(agent) or answered.answer is None or who.is_private or who.id in self._excluded:
            return
        if self._draw() < self._share:
            task = asyncio.create_task(self._run(agent, question, max_tokens, answered))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drops what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # some may not have begun

    async def _run(self, agent: Agent, question: Question, max_tokens: int | None, answered: Trajectory) -> None:
        me = Caller("shadow", frozenset(), caller.current().indexes, self._limits)
        caller.set_current(me)
        context.begin_time(self._time_limit_s)
        task, outcome = asyncio.current_task(), "failed"
        assert task
        try:
            await asyncio.sleep(_PAUSE_S)
            async with self._meter.question(me):
                with self._capacity.spare("shadow", task.cancel), tracing.span("shadow", {}):
                    outcome = await self._compare(agent, question, max_tokens, answered)
        except TooMany:
            outcome = "capped"
        except (TooBusy, asyncio.CancelledError):
            outcome = "dropped"
        except BoundaryError as error:
            log.warning("shadow failed", boundary=error.boundary, failure=error.failure)
        except Refused as error:
            log.warning("shadow failed", refused=type(error).__name__)
        finally:
            metrics.SHADOW_QUESTIONS.labels(agent.name, outcome).inc()

    async def _compare(self, agent: Agent, question: Question, max_tokens: int | None, answered: Trajectory) -> str:
        """Returns which of the two answers are right. Raises BoundaryError."""
        baseline = await self._naive_rag(agent, question, max_tokens, len(answered.documents))
        # Both are held to the same evidence: all that either found, in an order that does not tell who found it.
        turns = (*answered.turns, *baseline.turns)
        found = {passage.id: passage for turn in turns for passage in turn.retrieved}
        evidence = [found[id] for id in sorted(found)]
        answers = answered.answer or "", baseline.answer or ""
        is_right = {answer: await self._ask(question, evidence, answer) for answer in dict.fromkeys(answers)}
        ours, theirs = map(is_right.__getitem__, answers)
        return _JUDGED[ours, theirs]

    async def _naive_rag(self, agent: Agent, question: Question, max_tokens: int | None, documents: int) -> Trajectory:
        """Returns naive RAG's answer from that many passages of the same search, from the cache if it is there."""
        how = {each.name: getattr(agent.params, each.name) for each in fields(Retrieval)}
        naive = replace(_NAIVE, params=NaiveRagParams(**how | {"top_k": max(1, documents)}))
        played = await self._player.play(naive, question, None, True, max_tokens)
        spent = played.trajectory.usage
        if not played.cached:
            metrics.SHADOW_TOKENS.labels("naive_rag").inc(spent.prompt_tokens + spent.completion_tokens)
        return played.trajectory

    async def _ask(self, question: Question, evidence: Sequence[Passage], answer: str) -> bool:
        if not answer:
            return False
        ruling = await self._judge(question, evidence, answer)
        metrics.SHADOW_TOKENS.labels("judge").inc(ruling.tokens)
        await self._meter.tokens(caller.current(), ruling.tokens)
        return ruling.is_right


def _is_comparable(agent: Agent) -> bool:
    """Returns whether the method searches, and is not naive RAG itself."""
    return isinstance(agent.params, Retrieval) and agent.name != _NAIVE.name
