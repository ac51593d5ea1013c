"""What the samples of one question tell together: whether they differ in worth, and how open the choice still is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from search_agent.types import Trajectory


def mixed(worth: Sequence[float]) -> bool:
    """Whether the samples are worth different amounts; if not, comparing them teaches nothing."""
    return len(set(worth)) > 1


def entropy(choices: Sequence[Hashable]) -> float:
    """Returns the entropy in nats of the choices' frequencies.

    Over few samples it is too low: it is at most the logarithm of their number.
    """
    shares = [count / len(choices) for count in Counter(choices).values()]
    return sum(-share * math.log(share) for share in shares)


def first_choice(trajectory: Trajectory) -> str:
    """Names what the searcher decided on its first information block: the passages kept, and whether to go on."""
    kept = sorted(passage.id for turn in trajectory.turns[:1] for passage in turn.selected)
    return f"{' '.join(kept)} {'goes on' if len(trajectory.turns) > 1 else 'stops'}"
