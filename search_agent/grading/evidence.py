"""Counts the gold passages of a question among those that were retrieved, read or kept."""

from __future__ import annotations

from collections.abc import Sequence

# One entry per passage that the answer needs, each with the ids that count as that passage.
GoldPassages = Sequence[Sequence[str]]


def gold_ranks(needed: GoldPassages, ids: Sequence[str]) -> tuple[int, ...]:
    """Returns the rank, from 1, at which each needed passage first occurs in `ids`, 0 if it does not."""
    places = {id: rank for rank, id in reversed(list(enumerate(ids, 1)))}
    return tuple(min((places[id] for id in passage if id in places), default=0) for passage in needed)


def coverage(needed: GoldPassages, ids: Sequence[str]) -> float:
    """Returns the share of the needed passages (at least one) that are among `ids`, 0.0 to 1.0."""
    return sum(map(bool, gold_ranks(needed, ids))) / len(needed)
