"""Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

Ranking = list[tuple[int, float]]  # (row, score), best first
Key = TypeVar("Key", bound=Hashable)

K = 60  # the paper's constant
# Passages of each ranking that are fused, or top_k where that is more. On the demo's questions recall at 8 grows
# up to a depth of 20 (from 94.7 % at 8 to 95.3 %) and is the same at 100, which leaves larger corpora room.
DEPTH = 100


def fuse(rankings: Iterable[Sequence[tuple[Key, float]]], top_k: int) -> list[tuple[Key, float]]:
    """Returns the top_k by the sum over rankings of 1 / (K + rank), ranks from 1; ties go to the earlier ranking."""
    scores: dict[Key, float] = {}
    for ranking in rankings:
        for rank, (key, _) in enumerate(ranking, start=1):
            scores[key] = scores.get(key, 0.0) + 1.0 / (K + rank)
    return sorted(scores.items(), key=lambda item: -item[1])[:top_k]
