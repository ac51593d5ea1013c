"""Orders the questions of a run's steps, with shares of each kind of question that change from stage to stage."""

from __future__ import annotations

import random
from collections.abc import Sequence

from common.run_config import ConfigProblem, MixtureConfig, RunConfig
from search_agent.types import Question


class _Deck:
    """Draws questions at random. Each is drawn once before any is drawn again."""

    def __init__(self, questions: Sequence[Question], seed: str) -> None:
        self._questions, self._order = questions, random.Random(seed)
        self._left: list[Question] = []

    def deal(self) -> Question:
        if not self._left:
            self._left = self._order.sample(self._questions, len(self._questions))
        return self._left.pop()


def mixture(asked: Sequence[Question], run: RunConfig) -> list[Question]:
    """Returns the questions of all steps of a run in their order; any run of them has its stage's shares.

    Raises ConfigProblem if no question has a value that a stage gives a share.
    """
    steps = run.verl["trainer.total_training_steps"]
    stages = {start: stage for start, stage in run.data.mixture.items() if start <= steps}
    ends = [*stages, steps + 1][1:]
    decks: dict[tuple[str, str], _Deck] = {}
    for stage in stages.values():
        for value in stage.shares:
            chosen = [question for question in asked if question.groups.get(stage.group, "") == value]
            if not chosen:
                raise ConfigProblem("data.mixture", f"no question to train on has {stage.group} {value!r}")
            decks.setdefault((stage.group, value), _Deck(chosen, f"{run.seed} {stage.group} {value}"))
    dealt: list[Question] = []
    for (start, stage), end in zip(stages.items(), ends, strict=True):
        count = (end - start) * run.questions_a_step
        dealt += [decks[stage.group, value].deal() for value in _values(stage, count)]
    return dealt


def _values(stage: MixtureConfig, count: int) -> list[str]:
    """Returns `count` values of the stage's group, each time the one that is furthest behind its share."""
    whole = sum(stage.shares.values())
    had = dict.fromkeys(stage.shares, 0)
    values = []
    for place in range(1, count + 1):
        behind = {value: place * share / whole - had[value] for value, share in stage.shares.items()}
        value = max(behind, key=behind.__getitem__)
        had[value] += 1
        values.append(value)
    return values
