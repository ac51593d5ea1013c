"""Statistics of scores: bootstrap intervals, paired comparisons and percentiles."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Returns the mean of `values` (not empty), and the percentiles 2.5 and 97.5 of the resamples' means."""
    source, count = random.Random(seed), len(values)
    means = sorted(sum(source.choices(values, k=count)) / count for _ in range(resamples))
    tail = int(resamples * 0.025)
    return Estimate(sum(values) / count, means[tail], means[-1 - tail])


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method compared with a baseline on the `count` questions that both answered.

    `difference` is the difference of GenAcc. `wins` counts the questions that only the method got right, `losses` those
    that only the baseline did; `p` is the exact two-sided sign test over them (McNemar).
    """

    count: int
    difference: Estimate
    wins: int
    losses: int
    p: float


class Scored(Protocol):
    """A question's id, and the GenAcc of an answer to it."""

    @property
    def id(self) -> str: ...
    @property
    def gen_acc(self) -> float: ...


def compare(
    ours: Iterable[Scored], baseline: Iterable[Scored], seed: int, resamples: int = RESAMPLES
) -> Comparison | None:
    """Compares the answers to the same questions. Returns None if there are none."""
    theirs = {row.id: row.gen_acc for row in baseline}
    pairs = [(row.gen_acc, theirs[row.id]) for row in sorted(ours, key=lambda row: row.id) if row.id in theirs]
    if not pairs:
        return None
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    difference = bootstrap([a - b for a, b in pairs], seed, resamples)
    return Comparison(len(pairs), difference, wins, losses, _sign_test(wins, losses))


def _sign_test(wins: int, losses: int) -> float:
    trials = wins + losses
    tail = sum(math.comb(trials, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / (1 << trials))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Returns the nearest-rank percentile of ascending values (not empty)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
