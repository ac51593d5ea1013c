"""Plays, answers and rewards one sample of training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from common.by_steps import at
from common.run_config import RewardConfig
from learning.warm_start.teacher import Teacher
from search_agent.agents import Agent
from search_agent.agents.s3 import S3Params
from search_agent.errors import Failure, GeneratorError
from search_agent.grading import answers, reward
from search_agent.grading.evidence import coverage
from search_agent.grading.judge import grade
from search_agent.types import Passage, Question, Sampling, Trajectory
from search_agent.world import Policy, World


@dataclass(frozen=True, slots=True)
class Example:
    """A question to train on.

    `rag` is naive RAG's GenAcc with `generator` ("name@version"). Both are empty if the reward does not use naive RAG.
    `gold` has the gold passages for the teacher; it is empty if the teacher plays none of the samples.
    """

    question: Question
    rag: float | None = None
    generator: str = ""
    gold: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Played:
    """An episode and its reward. `parts` are the reward's parts by the names under which they are logged."""

    trajectory: Trajectory
    reward: float
    parts: dict[str, float]


class Stage:
    """Plays episodes in a world, each with its own searcher, and rewards them. It holds no state between episodes."""

    def __init__(self, agent: Agent, world: World, terms: RewardConfig) -> None:
        self._agent, self._world, self._terms = agent, world, terms

    def teacher(self, example: Example) -> Teacher:
        """Returns a teacher for one episode of s3 on the example."""
        assert isinstance(self._agent.params, S3Params)
        gold = {passage.id: passage for passage in example.gold}
        return Teacher(example.question, gold, self._world.retriever, self._agent.params)

    async def play(self, policy: Policy, example: Example, step: int, teacher: Teacher | None = None) -> Played:
        """Plays an episode of a training step. Raises BoundaryError: a failed episode has no reward.

        A teacher sees what is retrieved, and `policy` writes its moves.
        """
        world = replace(self._world, searcher=policy, retriever=teacher or self._world.retriever)
        answer = Sampling(max_tokens=self._terms.answer_tokens)
        trajectory = await self._agent.play(example.question, world, answer)
        worth, parts = await self._worth(example, trajectory, trajectory.answer or "")
        conduct = reward.Conduct.of(trajectory)
        cost = conduct.cost(self._terms.penalties_at(step))
        parts |= evidence_kept(example.question, trajectory)
        worth += at(step, self._terms.coverage_weight) * parts.get("coverage", 0.0)
        parts |= {name: float(value) for name, value in asdict(conduct).items()}
        return Played(trajectory, worth - cost, parts | {"penalty": cost, "reward": worth - cost})

    async def _worth(self, example: Example, trajectory: Trajectory, answer: str) -> tuple[float, dict[str, float]]:
        if self._terms.kind == "exact_match":
            right = answers.exact_match(answer, example.question.golds)
            return right, {"accuracy": right}
        answering = trajectory.models[-1:]  # the searcher comes before it, where its service names it
        if example.rag is None or answering != (example.generator,):
            message = f"{' and '.join(answering)} answers, but naive RAG was scored with {example.generator}"
            raise GeneratorError(Failure.INVALID, message)
        ours = (await grade(example.question, answer, self._world.judge)).gen_acc
        gain = reward.gain_beyond_rag(ours, example.rag)
        worth = gain if self._terms.kind == "gain" else reward.gain_plus_accuracy(ours, example.rag)
        return worth, {"accuracy": ours, "rag_accuracy": example.rag, "gain": gain}


def evidence_kept(question: Question, trajectory: Trajectory) -> dict[str, float]:
    """Returns the share of the gold passages kept, and 1.0 or 0.0 for all kept and for all retrieved.

    Returns nothing for a question whose gold passages are not known.
    """
    needed = question.gold_passages
    if not needed:
        return {}
    kept = coverage(needed, [passage.id for passage in trajectory.passages])
    seen = coverage(needed, [passage.id for turn in trajectory.turns for passage in turn.retrieved])
    return {"coverage": kept, "all_kept": float(kept == 1), "all_seen": float(seen == 1)}


def row_of(example: Example) -> dict[str, Any]:
    """Returns the example as plain values, for `example_of`."""
    return asdict(example)


def example_of(row: dict[str, Any]) -> Example:
    """Returns the example that `row_of` wrote."""
    fields = row["question"]
    fields = fields | {"golds": tuple(fields["golds"]), "gold_passages": tuple(map(tuple, fields["gold_passages"]))}
    gold = tuple(Passage(**passage) for passage in row.get("gold", ()))  # rows of older runs have none
    return Example(Question(**fields), row["rag"], row["generator"], gold)
