"""A circuit breaker: a backend that keeps failing is left alone for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common import metrics
from search_agent.errors import BoundaryError, Failure

_FAILURES = 5
_OPEN_S = 1.0
CLOSED, HALF_OPEN, OPEN = range(3)


class Breaker:
    """Opens after five failures in a row. After a second, one call tries whether the backend is back."""

    def __init__(self, name: str, boundary: type[BoundaryError], clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._boundary, self._clock = name, boundary, clock
        self._failures, self._open_until = 0, 0.0
        self._set(CLOSED)

    @contextmanager
    def call(self, counts_time: bool = True) -> Iterator[None]:
        """Holds a call to the backend. Raises UNAVAILABLE without calling while the breaker is open.

        A timeout is a failure only if it `counts_time`, which a call does not that had little of it. An error with a
        field is that of what the request names, such as an index on another server, and not the backend's.
        """
        if self._state is OPEN and self._clock() >= self._open_until:
            self._set(HALF_OPEN)
        elif self._state is not CLOSED:
            raise self._boundary(Failure.UNAVAILABLE, f"it failed {self._failures} times in a row; one call tries it")
        tries = self._state is HALF_OPEN
        try:
            yield
        except BoundaryError as error:
            is_down = error.failure is Failure.UNAVAILABLE or (error.failure is Failure.TIMEOUT and counts_time)
            if is_down and not error.field:
                self._fail()
            else:
                self._succeed()
            raise
        except BaseException:  # the caller left: nothing is known
            if tries:
                self._set(OPEN)
            raise
        self._succeed()

    def _fail(self) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            self._open_until = self._clock() + _OPEN_S
            self._set(OPEN)

    def _succeed(self) -> None:
        self._failures = 0
        self._set(CLOSED)

    def _set(self, state: int) -> None:
        self._state = state
        metrics.BREAKER.labels(self._name).set(state)
