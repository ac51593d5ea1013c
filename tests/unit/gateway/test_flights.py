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
        self.under_way = asyncio.Event()

    async def __call__(self, tell: Callable[[int], None]) -> None:
        self.started += 1
        number = self.started
        try:
            for _ in range(self._calls):
                left_s = context.time_left(math.inf)
                self.under_way.set()
                await asyncio.sleep(min(self._seconds / self._calls, left_s))
                if left_s < self._seconds / self._calls:
                    raise GeneratorError(Failure.TIMEOUT, "late")
            tell(number)
        except asyncio.CancelledError:
            self.stopped += 1
            raise


async def ask(flights: Flights[int], work: Work, limit_s: float) -> list[int]:
    context.begin_time(limit_s)
    return [event async for event in flights.join("key", work)]


async def join(flights: Flights[int], work: Work, limit_s: float) -> list[int]:
    """Asks once the work is under way, in a call whose deadline is fixed."""
    await work.under_way.wait()
    return await ask(flights, work, limit_s)


async def test_who_joins_waits_for_the_work_of_the_first() -> None:
    flights, work = Flights[int](), Work(0.05)
    assert await asyncio.gather(ask(flights, work, 99), join(flights, work, 99)) == [[1], [1]]
    assert "key" not in flights


async def test_who_joins_with_more_time_has_it_after_the_deadline_of_the_first() -> None:
    flights, work = Flights[int](), Work(0.9, calls=3)
    first, second = await asyncio.gather(ask(flights, work, 0.6), join(flights, work, 99), return_exceptions=True)
    assert isinstance(first, TooLittleTime)
    assert second == [1]  # each call has the time of the last caller
    assert (work.started, work.stopped) == (1, 0)


async def test_work_whose_call_had_the_deadline_of_the_first_starts_again() -> None:
    flights, work = Flights[int](), Work(0.4)
    late = [join(flights, work, 99) for _ in range(2)]
    first, *others = await asyncio.gather(ask(flights, work, 0.2), *late, return_exceptions=True)
    assert isinstance(first, GeneratorError)
    assert others == [[2], [2]]
    assert work.started == 2


async def test_who_joins_with_less_time_leaves_and_the_work_goes_on() -> None:
    flights, work = Flights[int](), Work(0.5)
    first, second = await asyncio.gather(ask(flights, work, 99), join(flights, work, 0.1), return_exceptions=True)
    assert first == [1]
    assert isinstance(second, TooLittleTime)
    assert work.stopped == 0


async def test_a_timeout_that_is_not_the_deadlines_is_everybodys() -> None:
    flights, runs = Flights[int](), 0

    async def work(tell: Callable[[int], None]) -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        raise GeneratorError(Failure.TIMEOUT, "frozen")

    async def ask(limit_s: float) -> None:
        context.begin_time(limit_s)
        with pytest.raises(GeneratorError):
            await anext(flights.join("key", work))

    await asyncio.gather(ask(59), ask(99))
    assert runs == 1


async def test_the_work_stops_when_the_last_caller_leaves() -> None:
    flights, work = Flights[int](), Work(9)
    tasks = [asyncio.create_task(ask(flights, work, 99)) for _ in range(2)]
    await work.under_way.wait()
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    assert work.stopped == 0
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert work.stopped == 1
    assert "key" not in flights
