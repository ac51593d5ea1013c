"""Work that several callers want at the same time and that is done only once."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import aclosing
from typing import Generic, TypeVar

from common import context, tracing
from search_agent.errors import BoundaryError, Failure
from services.gateway.problems import TooLittleTime

T = TypeVar("T")
Tell = Callable[[T], None]
Work = Callable[[Tell[T]], Awaitable[None]]  # tells its events as they happen
_GRACE_S = 0.25  # the error of the work itself, which names the backend, comes first


class _Flight(Generic[T]):
    """Collects events as they arrive, for callers who join later.

    The work runs in the context of the first caller, but with the deadline of the last.
    """

    def __init__(self, work: Work[T], ended: Callable[[], None]) -> None:
        self.followers = 0
        self.traceparent = tracing.current().traceparent
        self._seen: list[T] = []
        self._error: Exception | None = None
        self._is_over = False
        self._ended = ended
        self._news = asyncio.Event()
        self._first_ends_at = context.ends_at()
        theirs = contextvars.copy_context()
        self._time = theirs.run(context.begin_time, context.time_left(math.inf))
        self._task = asyncio.create_task(self._run(work), context=theirs)

    async def _run(self, work: Work[T]) -> None:
        try:
            await work(self._note)
        except Exception as error:
            self._error = error
        finally:
            self._is_over = True
            self._ended()
            self._wake()

    def _note(self, event: T) -> None:
        self._seen.append(event)
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def events(self) -> AsyncGenerator[T, None]:
        """Yields all events, from the first on. Raises what the work raises, and TooLittleTime."""
        self._time.ends_at = max(self._time.ends_at, context.ends_at())
        told = 0
        while True:
            while told < len(self._seen):
                told += 1
                yield self._seen[told - 1]
            if self._error:
                raise self._error
            if self._is_over:
                return
            try:
                async with asyncio.timeout(context.time_left(math.inf) + _GRACE_S):
                    await self._news.wait()
            except TimeoutError:
                raise TooLittleTime("the time for the whole request is over") from None

    def lacked_time(self, error: Exception) -> bool:
        """Returns whether the work failed for lack of time that the current request has and the first one did not have.

        A call under way keeps the deadline with which it began.
        """
        if error is not self._error or self._first_ends_at >= context.ends_at():
            return False
        is_late = isinstance(error, BoundaryError) and error.failure is Failure.TIMEOUT
        return isinstance(error, TooLittleTime) or (is_late and time.monotonic() > self._first_ends_at - _GRACE_S)

    async def stop(self) -> None:
        """Stops the work and waits for its end."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


class Flights(Generic[T]):
    """The work in progress, by a key that contains everything that the work's events depend on."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def join(self, key: Hashable, work: Work[T]) -> AsyncGenerator[T, None]:
        """Yields the events of the work with that key, which it starts if it is not under way.

        A caller waits for as long as their own request has time, and the work goes on until the last one has closed
        this. It starts again if it failed by the deadline of an earlier caller, before any event. Raises what the work
        raises, and TooLittleTime.
        """
        told = False
        while True:
            flight = self._flights.get(key)
            if flight:
                tracing.current().link(flight.traceparent)
            else:
                flight = self._start(key, work)
            flight.followers += 1
            try:
                async with aclosing(flight.events()) as events:  # or its end takes a task
                    async for event in events:
                        told = True
                        yield event
                return
            except Exception as error:
                if told or not flight.lacked_time(error):
                    raise
            finally:
                flight.followers -= 1
                if not flight.followers:
                    self._forget(key, flight)
                    await flight.stop()

    def _start(self, key: Hashable, work: Work[T]) -> _Flight[T]:
        flight: _Flight[T] = _Flight(work, lambda: self._forget(key, flight))
        self._flights[key] = flight
        return flight

    def _forget(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:  # another may have taken its place
            del self._flights[key]
