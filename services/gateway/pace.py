"""Learns how long requests take: each kind alone, and how much longer for each other request in progress."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

ALONE = 0.3  # fewer others, in the mean, are none
_RATE = 0.15  # the weight of the newest request in the means
_RECENT = 50  # requests of a kind whose times the quantiles are taken from
_MANY = 0.95  # a request is expected to end by this quantile
_GROWTH = 2  # how many times as many requests as have been timed may be tried at once


@dataclass(slots=True)
class _Kind:
    """`alone_s` is the mean time alone; `ratios` are recent times in units of what was expected.

    Until a request `ran_alone`, the former is a guess that may confirm itself: n requests that do not slow each other
    down look like n that each take an n-th of the time alone.
    """

    alone_s: float
    ran_alone: bool = False
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    timed_at: float = -math.inf


class Pace:
    """Expects a request to take its kind's time alone, times 1 + share × others.

    `share` is one number for all kinds: with 0, concurrent requests do not slow each other down; with 1, the machine
    handles them as if one after the other.
    """

    def __init__(self, first_s: float, first_at_once: int) -> None:
        """A kind that has not been timed is assumed to take `first_s` alone.

        Until some have been timed, `first_at_once` requests may be in progress.
        """
        self._first_s, self._first_at_once = first_s, first_at_once
        self._kinds: dict[Hashable, _Kind] = {}
        self._share = 1.0
        self._most_timed = 0.0  # requests that were under way together, among those that were timed lately

    def observe(self, kind: Hashable, seconds: float, others: float, now: float) -> None:
        """Learns from a request that took `seconds` beside `others` requests on average."""
        slowdown = 1 + self._share * others
        known = self._kinds.setdefault(kind, _Kind(seconds / slowdown))
        if others < ALONE and not known.ran_alone:
            self._kinds[kind] = known = _Kind(seconds / slowdown, ran_alone=True)
        known.timed_at = now
        known.ratios.append(seconds / max(known.alone_s * slowdown, 1e-9))
        if others > 0:
            share = (seconds / max(known.alone_s, 1e-9) - 1) / others
            self._share += _RATE * min(1.0, others) * (min(share, 2.0) - self._share)
            self._share = min(1.0, max(0.0, self._share))
        known.alone_s += _RATE / (1 + others) * (seconds / slowdown - known.alone_s)
        self._most_timed += max(_RATE * (others + 1 - self._most_timed), others + 1 - self._most_timed)

    def knows(self, kind: Hashable) -> bool:
        """Returns whether a request of the kind has been timed."""
        return kind in self._kinds

    def expected(self, kind: Hashable, others: float) -> float:
        """Returns the seconds that a request beside `others` should take on average."""
        return self.alone(kind) * (1 + self._share * others)

    def alone(self, kind: Hashable) -> float:
        """Returns the seconds that a request should take alone."""
        return known.alone_s if (known := self._kinds.get(kind)) else self._first_s

    def fastest(self, kind: Hashable) -> float:
        """Returns the seconds that the fastest of the recent requests would have taken alone; 0.0 for a new kind."""
        known = self._kinds.get(kind)
        return known.alone_s * min(known.ratios) if known else 0.0

    def timed_at(self, kind: Hashable) -> float:
        """Returns when a request of the kind was last timed."""
        return known.timed_at if (known := self._kinds.get(kind)) else -math.inf

    def at_once(self, kind: Hashable, mean_s: float, left_s: float) -> int:
        """Returns how many requests may be under way, one of the kind among them, for it to end in time.

        In time is `mean_s` in the mean, and `left_s` for nearly all. It is 1 at least.
        """
        known = self._kinds.get(kind)
        tried = max(self._first_at_once, math.ceil(_GROWTH * self._most_timed))
        if not known:
            return tried
        within = min(mean_s, left_s / _quantile(known.ratios))
        others = (within / max(known.alone_s, 1e-9) - 1) / max(self._share, 1e-3)
        return max(1, min(tried, math.floor(others + 1e-6) + 1))


def _quantile(ratios: deque[float]) -> float:
    """Returns the quantile _MANY, 1 at least."""
    return max(1.0, sorted(ratios)[min(len(ratios) - 1, int(_MANY * len(ratios)))])
