"""Patience of batch clients: calls that a service was too busy or too broken to answer are repeated, more slowly."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from common import waiting
from search_agent.errors import BoundaryError, Failure

T = TypeVar("T")
TEMPORARY = frozenset({Failure.OVERLOADED, Failure.UNAVAILABLE, Failure.TIMEOUT})
TEMPORARY_STATUSES = frozenset({429, 503, 504})  # of HTTP
_FIRST_S, _LONGEST_S = 0.25, 15.0
_LONGEST_TOLD_S = 60.0  # a service may be free sooner than it said, and asking it early costs little
_SHOWN_S = 1.0  # a service that answers nobody for longer is shown to be waited for
_FEWER = 0.7  # the share of calls that go on at once after one that must come again


def pause_of(error: Exception) -> float | None:
    """Returns the least seconds to wait before another attempt, None if asking again is useless."""
    return 0.0 if isinstance(error, BoundaryError) and error.failure in TEMPORARY else None


class Patience:
    """Asks again for up to `limit_s` seconds. All calls of a batch share it.

    Each failure reduces the number of concurrent calls, and each success raises it a little, so that a slow service
    gets only what it can handle. Once a call has given up and none has succeeded meanwhile, the next ones give up at
    their first failure.
    """

    def __init__(
        self,
        limit_s: float,
        service: str,
        address: str,
        pause_of: Callable[[Exception], float | None] = pause_of,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`pause_of` returns the least seconds to wait after an error, None to raise it."""
        self._limit_s, self._pause_of, self._clock, self._sleep = limit_s, pause_of, clock, sleep
        self._service, self._address = f"the {service} at {address}", address
        self._failing_since: float | None = None  # when a call failed first, if none has succeeded since
        self._gave_up, self._succeeded_at = False, 0.0
        self._under_way, self._most, self._fewer_since = 0, math.inf, 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Returns the result of `ask`. Raises its last error."""
        async with self._place():
            began, longest = self._clock(), _FIRST_S
            while True:
                asked = self._clock()
                try:
                    result = await ask()
                except Exception as error:
                    pause_s = self._pause_of(error)
                    if pause_s is None:
                        raise
                    self._ask_less(asked)
                    # Who is told when to come waits for the others, who may be many.
                    since = max(began, self._succeeded_at) if pause_s else began
                    left_s = since + self._limit_s - self._clock()
                    if left_s <= 0 or self._gave_up:
                        self._gave_up |= self._succeeded_at < began
                        waiting.display().end(self._service)
                        raise
                    pause_s = pause_s or longest * random.uniform(0.5, 1)  # together refused, not together again
                    longest = min(2 * longest, _LONGEST_S)
                    pause_s = min(pause_s, left_s, _LONGEST_TOLD_S)
                    self._show(error, asked)
                else:
                    self._gave_up, self._succeeded_at = False, self._clock()
                    if self._failing_since is not None:
                        self._failing_since = None
                        waiting.display().end(self._service)
                    self._most += 1 / self._most
                    return result
                await self._sleep(pause_s)

    def _ask_less(self, asked: float) -> None:
        if asked >= self._fewer_since:  # calls that were sent together count as one
            self._most = max(1.0, _FEWER * min(self._most, self._under_way))
            self._fewer_since = self._clock()

    def _show(self, error: Exception, asked: float) -> None:
        """Shows the wait, unless it has just begun."""
        if self._failing_since is None:
            self._failing_since = asked
        failing_s = self._clock() - self._failing_since
        if failing_s >= _SHOWN_S:
            why = str(error).removeprefix(f"{self._address}: ")
            waiting.display().wait(self._service, why, self._limit_s - failing_s)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._waiting or self._under_way + 1 > self._most:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if not place.cancelled():
                    self._under_way -= 1
                    self._let_in()
                raise
        else:
            self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._under_way + 1 <= self._most:
            place = self._waiting.popleft()
            if not place.done():
                self._under_way += 1
                place.set_result(None)
