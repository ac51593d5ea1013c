"""Compares the samples of one question: whether their rewards differ, and how open the searcher's choice still is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from search_agent.types import Trajectory


def mixed(worth: Sequence[float]) -> bool:
    """Returns whether the samples' rewards differ; if they do not, comparing them teaches nothing."""
    return len(set(worth)) > 1


def entropy(choices: Sequence[Hashable]) -> float:
    """Returns the entropy in nats of the choices' frequencies.

    With few samples it is too low: it is at most the logarithm of their number.
    """
    shares = [count / len(choices) for count in Counter(choices).values()]
    return sum(-share * math.log(share) for share in shares)


def first_choice(trajectory: Trajectory) -> str:
    """Returns the searcher's decision on its first block as text: the passages kept, and whether to search on."""
    kept = sorted(passage.id for turn in trajectory.turns[:1] for passage in turn.selected)
    return f"{' '.join(kept)} {'goes on' if len(trajectory.turns) > 1 else 'stops'}"
