"""Work that several callers want is done once, and each waits for as long as their own time lasts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from common import context
from search_agent.errors import Failure, GeneratorError
from services.gateway.flights import Flights
from services.gateway.problems import TooLittleTime


class Work:
    """Tells its number. It takes `seconds`, or ends with its call's deadline as gRPC does."""

    def __init__(self, seconds: float, calls: int = 1) -> None:
        self._seconds, self._calls = seconds, calls
        self.started = self.stopped = 0

    async def __call__(self, tell: Callable[[int], None]) -> None:
        self.started += 1
        number = self.started
        try:
            for _ in range(self._calls):
                left_s = context.time_left(math.inf)
                await asyncio.sleep(min(self._seconds / self._calls, left_s))
                if left_s < self._seconds / self._calls:
                    raise GeneratorError(Failure.TIMEOUT, "late")
            tell(number)
        except asyncio.CancelledError:
            self.stopped += 1
            raise


async def ask(flights: Flights[int], work: Work, limit_s: float, after_s: float = 0.0) -> list[int]:
    await asyncio.sleep(after_s)
    context.begin_time(limit_s)
    return [event async for event in flights.join("key", work)]


async def test_who_joins_waits_for_the_work_of_the_first() -> None:
    flights, work = Flights[int](), Work(0.05)
    assert await asyncio.gather(ask(flights, work, 9), ask(flights, work, 9, 0.02)) == [[1], [1]]
    assert "key" not in flights


async def test_who_joins_with_more_time_has_it_after_the_deadline_of_the_first() -> None:
    flights, work = Flights[int](), Work(0.6, calls=3)
    first, second = await asyncio.gather(ask(flights, work, 0.3), ask(flights, work, 9, 0.05), return_exceptions=True)
    assert isinstance(first, TooLittleTime)
    assert second == [1]  # each call has the time of the last caller
    assert (work.started, work.stopped) == (1, 0)


async def test_work_whose_call_had_the_deadline_of_the_first_starts_again() -> None:
    flights, work = Flights[int](), Work(0.4)
    late = [ask(flights, work, 9, 0.05), ask(flights, work, 9, 0.1)]
    first, *others = await asyncio.gather(ask(flights, work, 0.2), *late, return_exceptions=True)
    assert isinstance(first, GeneratorError)
    assert others == [[2], [2]]
    assert work.started == 2


async def test_who_joins_with_less_time_leaves_and_the_work_goes_on() -> None:
    flights, work = Flights[int](), Work(0.5)
    first, second = await asyncio.gather(ask(flights, work, 9), ask(flights, work, 0.1, 0.02), return_exceptions=True)
    assert first == [1]
    assert isinstance(second, TooLittleTime)
    assert work.stopped == 0


async def test_a_timeout_that_is_not_the_deadlines_is_everybodys() -> None:
    flights, runs = Flights[int](), 0

    async def work(tell: Callable[[int], None]) -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.02)
        raise GeneratorError(Failure.TIMEOUT, "frozen")

    async def ask(limit_s: float) -> None:
        context.begin_time(limit_s)
        with pytest.raises(GeneratorError):
            await anext(flights.join("key", work))

    await asyncio.gather(ask(5), ask(9))
    assert runs == 1


async def test_the_work_stops_when_the_last_caller_leaves() -> None:
    flights, work = Flights[int](), Work(9)
    tasks = [asyncio.create_task(ask(flights, work, 99)) for _ in range(2)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert work.stopped == 0
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert work.stopped == 1
    assert "key" not in flights
