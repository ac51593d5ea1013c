"""Whether a checkpoint is better than the searcher that serves: both answer the same questions."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from search_agent.errors import BoundaryError
from search_agent.evaluate import Estimate, Question, bootstrap
from services.evaluate.journal import Journal
from services.evaluate.pool import each
from services.trainer.config import GateConfig

_AT_ONCE = 8

_UNKNOWN = Estimate(math.nan, math.nan, math.nan)

Answer = Callable[[Question], Awaitable[float]]  # -> GenAcc. Raises BoundaryError


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accuracies (0 to 1) are over the `questions` that both answered; `failed` counts the rest."""

    passed: bool
    reason: str
    questions: int
    failed: int
    candidate: float = math.nan
    current: float = math.nan
    difference: Estimate = _UNKNOWN


async def compare(
    questions: Sequence[Question],
    models: Mapping[str, Answer],
    journal: Path,
    terms: GateConfig,
    max_failed_share: float,
) -> Verdict:
    """Asks both `models`, the candidate first, by the names that answers carry; goes on with the journal.

    A journal is of one set of questions: its rows count by model and question id.
    """
    kept = Journal(journal)
    found = {(row["model"], row["id"]): float(row["gen_acc"]) for row in kept.found}

    async def ask(pair: tuple[Question, str]) -> None:
        question, model = pair
        if (model, question.id) in found:
            return
        try:
            gen_acc = await models[model](question)
        except BoundaryError:
            return
        kept.append({"model": model, "id": question.id, "gen_acc": gen_acc})
        found[model, question.id] = gen_acc

    try:
        await each(((question, model) for question in questions for model in models), ask, _AT_ONCE)
    finally:
        kept.close()
    candidate, current = models
    ids = [question.id for question in questions]
    pairs = [(found[candidate, id], found[current, id]) for id in ids if {(candidate, id), (current, id)} <= set(found)]
    return decide(pairs, len(questions) - len(pairs), terms, max_failed_share)


def decide(pairs: Sequence[tuple[float, float]], failed: int, terms: GateConfig, max_failed_share: float) -> Verdict:
    """Passes a candidate whose mean is better by the margin, with a 95 % interval that excludes zero.

    `pairs` are the GenAcc of candidate and current. More failures than the share allows decide nothing.
    """
    if not pairs or failed > max_failed_share * (len(pairs) + failed):
        return Verdict(False, f"inconclusive: {failed} of {len(pairs) + failed} questions failed", len(pairs), failed)
    difference = bootstrap([ours - theirs for ours, theirs in pairs], terms.seed, terms.resamples)
    told = f"{100 * difference.mean:+.1f} points [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    if 100 * difference.mean < terms.margin:
        reason = f"{told}, less than the margin of {terms.margin:g}"
    elif difference.low <= 0:
        reason = f"{told}: the interval does not exclude zero"
    else:
        reason = told
    passed = reason == told
    candidate, current = (math.fsum(pair[side] for pair in pairs) / len(pairs) for side in (0, 1))
    return Verdict(passed, reason, len(pairs), failed, candidate, current, difference)
