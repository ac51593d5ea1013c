"""Pushes what a service serves to its clients, at once and after each change, so that they need not ask."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Generic, TypeVar, cast

import structlog

from search_agent.errors import BoundaryError

log = structlog.get_logger()
T = TypeVar("T")
BEAT_S = 1.0  # between two messages of a stream on which nothing changes
_HOLDS_S = 2.5 * BEAT_S  # the time for which a message is believed
_AGAIN_S = 1.0  # from the end of a stream to the next one


class Bell:
    """Wakes the streams that report something when it changes. Any thread may ring it.

    Without a ring, the streams tell again after `beat_s` seconds.
    """

    def __init__(self, beat_s: float = BEAT_S) -> None:
        self.beat_s, self.is_closed = beat_s, False
        self._rung: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def ring(self) -> None:
        """Has the streams tell again."""
        for rung, loop in [*self._rung.items()]:
            with suppress(RuntimeError):  # its loop has ended
                loop.call_soon_threadsafe(rung.set)

    def close(self) -> None:
        """Ends the streams."""
        self.is_closed = True
        self.ring()

    @contextmanager
    def heard(self) -> Iterator[asyncio.Event]:
        """Yields an event that each ring sets."""
        rung = asyncio.Event()
        self._rung[rung] = asyncio.get_running_loop()
        try:
            yield rung
        finally:
            del self._rung[rung]


async def told(tell: Callable[[], Awaitable[T]], bell: Bell) -> AsyncGenerator[T, None]:
    """Yields what `tell` returns: at once, at each ring of the bell, and at each beat without one.

    Ends when the bell is closed. Raises what `tell` raises.
    """
    with bell.heard() as rung:
        while not bell.is_closed:
            rung.clear()
            yield await tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(bell.beat_s):
                    await rung.wait()


class Pushed(Generic[T]):
    """Knows what a service serves, as its stream told it last or, while the stream is silent, as the service answers.

    The stream shares its connection with the calls of the same channel, so that among several replicas it is told by
    the one that the next call would reach. A change is known once its message has come. When the connection breaks, the
    service stops, or it is restarted, the stream ends, and every `get` asks until the next stream has begun. If a
    service is cut off silently, its last message is trusted for 2.5 s, which is the longest time for which a value can
    be out of date.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        watch: Callable[[], AsyncGenerator[T, None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._watch, self._clock = ask, watch, clock
        self._told: T | None = None
        self._holds_until = -math.inf
        self._following: asyncio.Task[None] | None = None

    async def get(self) -> T:
        """Returns what is served. Raises what `ask` raises. The first call opens the stream."""
        if self._clock() < self._holds_until:
            return cast(T, self._told)
        if self._following is None:  # in a context of its own, for it outlives the request
            self._following = asyncio.create_task(self._follow(), context=contextvars.Context())
        return await self._ask()

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self._watch()) as values:
                    async for self._told in values:
                        self._holds_until = self._clock() + _HOLDS_S
            except BoundaryError:  # `ask` tells, and counts it
                pass
            except Exception:
                log.exception("what is served cannot be read")
            finally:
                self._holds_until = -math.inf
            await asyncio.sleep(_AGAIN_S)

    async def close(self) -> None:
        if self._following:
            self._following.cancel()
            await asyncio.wait([self._following])
