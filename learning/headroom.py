"""Head room: how much reinforcement could win, measured by sampling the searcher many times before training.

Reinforcement makes actions more likely that the searcher already takes sometimes. It learns nothing from a question
whose samples all have the same reward, and it can win nothing if the best sample is no better than the greedy one.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.journal import Journal
from common.pool import each
from common.run_config import RunConfig, StopConfig
from evaluation.folder import settle
from learning.episodes import Example, Stage
from learning.groups import entropy, first_choice, mixed
from learning.stopping import reason_to_stop
from search_agent.errors import BoundaryError
from search_agent.types import Question
from search_agent.world import Searcher, World

SCORES = ("accuracy", "coverage", "all_kept", "reward")
GREEDY = 0  # the number of the sample at temperature 0


@dataclass(frozen=True)
class Sample:
    """One episode on a question. `parts` are those of its reward, which leaves naive RAG out: it is the same for all
    samples of a question."""

    id: str
    number: int
    choice: str
    parts: dict[str, float]


@dataclass(frozen=True)
class Spread:
    """A score over questions: greedy, the mean and the best of the samples, and the share whose samples differ."""

    greedy: float
    mean: float
    best: float
    mixed: float


@dataclass(frozen=True)
class HeadRoom:
    """Figures of the samples on `questions` questions.

    `choice_entropy` is that of the first choice in nats, `well_formed` the share of the episodes without a malformed
    turn. `scores` has each of SCORES that the questions have.
    """

    questions: int
    choice_entropy: float
    well_formed: float
    searches: float
    scores: dict[str, Spread]

    def lacking(self, rules: StopConfig) -> str:
        """Returns the stop rule that training would break from its first step on, "" if none."""
        step = {"search/mixed_groups": self.scores["reward"].mixed, "search/choice_entropy": self.choice_entropy}
        return reason_to_stop([step], rules.model_copy(update={"window": 1}))


@dataclass(frozen=True)
class Plan:
    """A measurement: `samples` episodes per question at `temperature`, beside the greedy one.

    `source` names the questions' set and its contents. `out` is the folder of the samples.
    """

    source: str
    questions: Sequence[Question]
    samples: int
    temperature: float
    concurrency: int
    out: Path


@dataclass(frozen=True)
class Outcome:
    """The complete samples by question, the failures of this call by reason, and what the samples are of."""

    samples: dict[str, list[Sample]]
    failures: Counter[str]
    facts: dict[str, Any]


async def measure(
    plan: Plan, run: RunConfig, world: World, searcher: Searcher, advance: Callable[[bool], None]
) -> Outcome:
    """Plays what the folder does not have yet, in the world of a run whose reward it uses.

    `advance` is told of every episode done, true for a failure. What failed is played by the next call. Raises
    EvaluateProblem if the folder holds samples of something else, BoundaryError if a service does not say what it is.
    """
    asked, answering = await asyncio.gather(searcher.info(), world.generator.info())
    facts = {
        "questions": plan.source,
        "searcher": asked.model,
        "generator": answering.model,
        "index": f"{(index := await world.index(run.index)).name} {index.version}",
        "temperature": plan.temperature,
        "agent": {"method": run.agent, **asdict(run.method.params)},
        "reward": run.reward.model_dump(mode="json"),
    }
    settle(plan.out / "run.json", facts, "samples", same=facts)
    stages = [
        Stage(run.method.with_params({"temperature": each}), world, run.reward) for each in (0.0, plan.temperature)
    ]
    journal = Journal(plan.out / "samples.jsonl", Sample)
    done = {(found.id, found.number) for found in journal.found}
    failures: Counter[str] = Counter()

    async def work(task: tuple[Question, int]) -> None:
        question, number = task
        if (question.id, number) not in done:
            try:
                played = await stages[number > GREEDY].play(searcher, Example(question, 0.0, answering.model), step=1)
            except BoundaryError as error:
                failures[f"{error.boundary}: {error}"] += 1
                advance(True)
                return
            found = Sample(question.id, number, first_choice(played.trajectory), played.parts)
            journal.append(asdict(found))
            journal.found.append(found)
        advance(False)

    try:
        # question by question, so that the samples of one share what was retrieved
        tasks = [(question, number) for question in plan.questions for number in range(plan.samples + 1)]
        await each(tasks, work, plan.concurrency)
    finally:
        journal.close()
    return Outcome(complete(plan.questions, journal.found, plan.samples), failures, facts)


def complete(asked: Sequence[Question], found: Sequence[Sample], samples: int) -> dict[str, list[Sample]]:
    """Returns the samples, in order, of each question that has its greedy one and `samples` others."""
    by_question: dict[str, dict[int, Sample]] = {question.id: {} for question in asked}
    for one in found:
        if one.id in by_question and one.number <= samples:
            by_question[one.id][one.number] = one
    return {id: [had[n] for n in sorted(had)] for id, had in by_question.items() if len(had) == samples + 1}


def is_mixed(group: Sequence[Sample]) -> bool:
    """Returns whether the samples of a question differ in reward, so that reinforcement can learn from it."""
    return mixed([found.parts["reward"] for found in group[1:]])


def head_room(groups: Sequence[Sequence[Sample]]) -> HeadRoom:
    """Returns the figures of the complete samples of questions (at least one)."""
    sampled = [found for group in groups for found in group[1:]]
    return HeadRoom(
        questions=len(groups),
        choice_entropy=statistics.fmean(entropy([found.choice for found in group[1:]]) for group in groups),
        well_formed=statistics.fmean(not found.parts["malformed"] for found in sampled),
        searches=statistics.fmean(found.parts["searches"] for found in sampled),
        scores={name: found for name in SCORES if (found := _spread(groups, name))},
    )


def _spread(groups: Sequence[Sequence[Sample]], name: str) -> Spread | None:
    values = [[found.parts[name] for found in group] for group in groups if name in group[0].parts]
    if not values:
        return None
    return Spread(
        greedy=statistics.fmean(greedy for greedy, *_ in values),
        mean=statistics.fmean(statistics.fmean(others) for _, *others in values),
        best=statistics.fmean(max(others) for _, *others in values),
        mixed=statistics.fmean(mixed(others) for _, *others in values),
    )


def by_group(asked: Sequence[Question], groups: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, HeadRoom]]:
    """Returns the figures by the name and the value of each group of questions, such as "hops" and "2"."""
    divided: dict[str, dict[str, list[Sequence[Sample]]]] = {}
    for question in asked:
        for name, value in question.groups.items() if question.id in groups else ():
            divided.setdefault(name, {}).setdefault(value, []).append(groups[question.id])
    return {name: {value: head_room(values[value]) for value in sorted(values)} for name, values in divided.items()}


def rows(whole: HeadRoom, divided: Mapping[str, Mapping[str, HeadRoom]]) -> list[dict[str, str]]:
    """Returns the rows of a table, in per cent and nats: all questions, then each group."""
    named = {"all": whole, **{f"{name} {value}": each for name, of in divided.items() for value, each in of.items()}}
    made = []
    for name, found in named.items():
        row: dict[str, Any] = {"questions": name, "n": str(found.questions)}
        for score in SCORES[:3]:
            spread = found.scores.get(score)
            for column in ("greedy", "mean", "best", "mixed"):
                row[f"{score} {column}"] = f"{100 * getattr(spread, column):.1f}" if spread else ""
        row |= {
            "reward mixed": f"{100 * found.scores['reward'].mixed:.1f}",
            "choice nat": f"{found.choice_entropy:.2f}",
            "well formed": f"{100 * found.well_formed:.1f}",
            "searches": f"{found.searches:.2f}",
        }
        made.append(row)
    return made
