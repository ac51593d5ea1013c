"""Work that several callers want at the same time, and that is done once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing
from typing import Generic, TypeVar

T = TypeVar("T")


class _Flight(Generic[T]):
    """Events as they come, kept for callers who join later. The work runs in the context of the first caller."""

    def __init__(self, events: AsyncGenerator[T, None], ended: Callable[[], None]) -> None:
        self.followers = 0
        self._seen: list[T] = []
        self._error: Exception | None = None
        self._is_over = False
        self._ended = ended
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run(events))

    async def _run(self, events: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._seen.append(event)
                    self._tell()
        except Exception as error:
            self._error = error
        finally:
            self._is_over = True
            self._ended()
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def events(self) -> AsyncGenerator[T, None]:
        """Yields all events, from the first on. Raises what the work raises."""
        told = 0
        while True:
            while told < len(self._seen):
                told += 1
                yield self._seen[told - 1]
            if self._error:
                raise self._error
            if self._is_over:
                return
            await self._news.wait()

    async def stop(self) -> None:
        """Stops the work and waits for its end."""
        self._task.cancel()
        await asyncio.wait([self._task])


class Flights(Generic[T]):
    """Work under way by its key, which holds everything that the work's events depend on."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def join(self, key: Hashable, start: Callable[[], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """Yields the events of the work with that key, which it starts if it is not under way.

        The work stops when the last caller has closed this. Raises what the work raises.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(start(), lambda: self._forget(key, flight))
        flight.followers += 1
        try:
            async for event in flight.events():
                yield event
        finally:
            flight.followers -= 1
            if not flight.followers:
                self._forget(key, flight)
                await flight.stop()

    def _forget(self, key: Hashable, flight: _Flight[T] | None) -> None:
        if self._flights.get(key) is flight:  # another may have taken its place
            self._flights.pop(key, None)
