"""The gate: a candidate and the searcher that serves answer the same held-out questions.

The candidate passes if the mean difference of GenAcc, over the questions that both answered, reaches the margin, and
the lower end of its 95 % paired bootstrap interval is above zero. The run may also ask that no group of the questions
falls: none may be worse by `group_fall` with an interval below zero. A question whose service failed is counted but
never scored. If more failed than the configuration allows, the gate is inconclusive.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

from common.journal import Journal
from common.pool import each
from common.run_config import GateConfig
from common.training import GateOutcome, GateProgress, Verdict
from search_agent.agents import Agent
from search_agent.errors import BoundaryError, Failure, TrainerError
from search_agent.grading.answers import Scoring
from search_agent.grading.judge import grade
from search_agent.grading.statistics import Comparison, compare
from search_agent.types import Question, Sampling
from search_agent.world import Policy, World

log = structlog.get_logger()


class Side(StrEnum):
    CANDIDATE = "candidate"
    CURRENT = "current"


@dataclass(frozen=True, slots=True)
class Answered:
    """One question answered and scored."""

    id: str
    gen_acc: float
    answer: str
    documents: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a side's journal. `question` is a hash of the whole question."""

    id: str
    question: str
    searcher: str
    answered: Answered


@dataclass(frozen=True, slots=True)
class Contender:
    """A searcher in the gate: its model ("name@version"), and the agent with the parameters that it was taught."""

    agent: Agent
    policy: Policy
    model: str


@dataclass(frozen=True, slots=True)
class Contest:
    """The questions, and the two sides that answer them in the same world.

    `generator_model` is the generator's "name@version". `facts` are everything else that the answers depend on.
    """

    questions: Sequence[Question]
    sides: Mapping[Side, Contender]
    world: World
    generator_model: str
    answer_tokens: int
    facts: Mapping[str, Any]

    def key(self, side: Side) -> str:
        """Returns a hash of all that the side's answers depend on, so that later gates reuse them."""
        contender = self.sides[side]
        everything = {
            "agent": contender.agent.name,
            "parameters": asdict(contender.agent.params),
            "searcher": contender.model,
            "generator": self.generator_model,
            "answer_tokens": self.answer_tokens,
            "scoring": Scoring.UNICODE,
            **self.facts,
        }
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:12]


async def hold(
    contest: Contest,
    terms: GateConfig,
    folder: Path,
    concurrency: int,
    limit_s: float,
    tell: Callable[[GateProgress], None],
) -> Verdict:
    """Asks the questions that have no row in `folder` yet, for at most `limit_s` seconds, and decides.

    A question that failed gets no row, so that the next gate asks it again. Raises TrainerError if a searcher or the
    generator changes its model meanwhile.
    """
    journals = {side: Journal(folder / f"{contest.key(side)}.jsonl", _Row) for side in Side}
    asked = {question.id: _digest(question) for question in contest.questions}
    rows: dict[Side, dict[str, Answered]] = {
        side: {row.id: row.answered for row in found if asked.get(row.id) == row.question}
        for side, found in ((side, journal.found) for side, journal in journals.items())
    }
    failed, total = 0, 2 * len(contest.questions)

    def report() -> None:
        tell(GateProgress(sum(map(len, rows.values())), failed, total))

    async def ask(pair: tuple[Question, Side]) -> None:
        nonlocal failed
        question, side = pair
        try:
            row = await _answer(contest, question, side)
        except TrainerError:
            raise
        except BoundaryError as error:
            failed += 1
            log.warning("gate question failed", question=question.id, side=side, error=f"{error.boundary}: {error}")
        else:
            rows[side][question.id] = row
            journals[side].append(asdict(_Row(question.id, asked[question.id], contest.sides[side].model, row)))
        report()

    left = [(question, side) for question in contest.questions for side in Side if question.id not in rows[side]]
    report()
    try:
        async with asyncio.timeout(limit_s):
            await each(left, ask, concurrency)
    except TimeoutError:
        log.warning("gate out of time", seconds=limit_s, left=total - sum(map(len, rows.values())))
    finally:
        for journal in journals.values():
            journal.close()
    candidate, current = (list(rows[side].values()) for side in (Side.CANDIDATE, Side.CURRENT))
    return decide(candidate, current, contest.questions, terms)


def _digest(question: Question) -> str:
    return hashlib.sha256(json.dumps(asdict(question), sort_keys=True).encode()).hexdigest()[:12]


def decide(
    candidate: Sequence[Answered], current: Sequence[Answered], questions: Sequence[Question], terms: GateConfig
) -> Verdict:
    """Returns the verdict over both sides' answers to the questions."""
    found = compare(candidate, current, terms.seed, terms.resamples)
    asked, compared = len(questions), found.count if found else 0
    failed = asked - compared
    verdict = Verdict(GateOutcome.INCONCLUSIVE, "", asked, compared, failed, terms.margin / 100)
    if found:
        verdict = replace(
            verdict,
            candidate=_mean(candidate, current),
            current=_mean(current, candidate),
            difference=found.difference.mean,
            low=found.difference.low,
            high=found.difference.high,
            wins=found.wins,
            losses=found.losses,
            p=found.p,
        )
    if not found or failed > terms.max_failed_share * asked:
        reason = (
            f"{failed} of {asked} questions were not answered by both, more than gate.max_failed_share "
            f"{terms.max_failed_share:g} allows"
        )
        return replace(verdict, reason=reason)
    result = _told(found)
    if verdict.difference < verdict.margin:
        return replace(verdict, outcome=GateOutcome.NOT_BETTER, reason=f"{result}; gate.margin is {terms.margin:g}")
    if verdict.low <= 0:
        return replace(verdict, outcome=GateOutcome.NOT_BETTER, reason=f"{result}; the interval includes zero")
    if fallen := _fallen(candidate, current, questions, terms):
        reason = f"{result}, but {', '.join(fallen)}; gate.group_fall is {terms.group_fall}"
        return replace(verdict, outcome=GateOutcome.NOT_BETTER, reason=reason)
    return replace(verdict, outcome=GateOutcome.PASSED, reason=result)


def _fallen(
    candidate: Sequence[Answered], current: Sequence[Answered], questions: Sequence[Question], terms: GateConfig
) -> list[str]:
    """Returns the groups, with their results, that are worse by `group_fall` with an interval below zero."""
    if terms.group_fall is None:
        return []
    members: dict[tuple[str, str], set[str]] = {}
    for question in questions:
        for group in question.groups.items():
            members.setdefault(group, set()).add(question.id)
    fallen = []
    for (name, value), ids in sorted(members.items()):
        found = compare((row for row in candidate if row.id in ids), current, terms.seed, terms.resamples)
        if found and found.difference.mean <= -terms.group_fall / 100 and found.difference.high < 0:
            fallen.append(f"{name} {value}: {_told(found)}")
    return fallen


def _told(found: Comparison) -> str:
    points = "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*(100 * share for share in astuple(found.difference)))
    return f"{points} on {found.count} questions"


def _mean(rows: Sequence[Answered], others: Sequence[Answered]) -> float:
    """Returns the mean GenAcc over the questions that the other side answered too."""
    both = {row.id for row in others}
    scores = [row.gen_acc for row in rows if row.id in both]
    return sum(scores) / len(scores)


async def _answer(contest: Contest, question: Question, side: Side) -> Answered:
    contender = contest.sides[side]
    world = replace(contest.world, searcher=contender.policy)
    trajectory = await contender.agent.play(question, world, Sampling(max_tokens=contest.answer_tokens))
    if strangers := set(trajectory.models) - {contender.model, contest.generator_model}:
        raise TrainerError(Failure.UNAVAILABLE, f"{', '.join(strangers)} was loaded while the gate was held; try again")
    answer = trajectory.answer or ""
    graded = await grade(question, answer, world.judge)
    return Answered(question.id, graded.gen_acc, answer, len(trajectory.documents))
