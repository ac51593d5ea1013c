"""Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Iterable

Ranking = list[tuple[int, float]]  # (row, score), best first

K = 60  # the paper's constant
# Passages of each ranking that are fused, or top_k where that is more. On the demo's questions recall at 8 grows
# up to a depth of 20 (from 94.7 % at 8 to 95.3 %) and is the same at 100, which leaves larger corpora room.
DEPTH = 100


def fuse(rankings: Iterable[Ranking], top_k: int) -> Ranking:
    """Returns the top_k by the sum over rankings of 1 / (K + rank), ranks from 1; ties go to the earlier ranking."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (row, _) in enumerate(ranking, start=1):
            scores[row] = scores.get(row, 0.0) + 1.0 / (K + rank)
    return sorted(scores.items(), key=lambda item: -item[1])[:top_k]
