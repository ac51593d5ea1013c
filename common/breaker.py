"""A circuit breaker: a backend that keeps failing is not called for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common import metrics
from search_agent.errors import BoundaryError, Failure

_FAILURES = 5
_OPEN_S = 1.0
_TRY_S = 10.0  # a call that tries and says nothing for so long, such as one that loads a model, lets another try
CLOSED, HALF_OPEN, OPEN = range(3)


class Breaker:
    """Opens after five failures in a row. After a second, one call tries whether the backend is back."""

    def __init__(self, name: str, boundary: type[BoundaryError], clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._boundary, self._clock = name, boundary, clock
        self._failures, self._last, self._next_try_at = 0, "", 0.0
        self._trying: object = None  # the newest call that tries
        self._state = -1
        self._set(CLOSED)

    @property
    def is_open(self) -> bool:
        """Whether a call would be refused now."""
        return self._state is not CLOSED and self._clock() < self._next_try_at

    @contextmanager
    def call(self, counts_time: bool = True) -> Iterator[None]:
        """Holds a call to the backend. Raises UNAVAILABLE without calling while the breaker is open.

        A timeout is a failure only if it `counts_time`; the timeout of a call that had little time says nothing. An
        error with a field concerns what the request names, such as an index on another server, and not the backend.
        """
        trying = object()
        if self._state is not CLOSED:
            now = self._clock()
            if now < self._next_try_at:
                raise self._boundary(
                    Failure.UNAVAILABLE, f"{self._last} ({self._failures} times in a row; one call tries it)"
                )
            self._trying, self._next_try_at = trying, now + _TRY_S
            self._set(HALF_OPEN)
        try:
            yield
        except BoundaryError as error:
            is_late = error.failure is Failure.TIMEOUT
            if error.field or not (is_late or error.failure is Failure.UNAVAILABLE):
                self._succeed()
            elif is_late and not counts_time:
                self._learn_nothing(trying)
            else:
                self._fail(error.message)
            raise
        except BaseException:  # the caller left
            self._learn_nothing(trying)
            raise
        self._succeed()

    def answers(self) -> None:
        """Lets others call while a call that tries goes on, as a stream may for hours. The next failure opens again."""
        if self._state is HALF_OPEN:
            self._set(CLOSED)

    def _learn_nothing(self, trying: object) -> None:
        if self._state is HALF_OPEN and self._trying is trying:
            self._next_try_at = self._clock()
            self._set(OPEN)

    def _fail(self, message: str) -> None:
        self._failures, self._last = self._failures + 1, message
        if self._failures >= _FAILURES:
            self._next_try_at = self._clock() + _OPEN_S
            self._set(OPEN)

    def _succeed(self) -> None:
        self._failures = 0
        self._set(CLOSED)

    def _set(self, state: int) -> None:
        if state == self._state:
            return
        self._state = state
        metrics.BREAKER.labels(self._name).set(state)
