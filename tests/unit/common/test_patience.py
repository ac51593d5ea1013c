"""A call that a service is too busy for is repeated, more slowly, and not for ever."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import pytest

from common import waiting
from common.patience import Patience
from search_agent.errors import Failure, GeneratorError

WHO = ("generator", "here:50053")


class Service:
    """Does `places` calls at once, in `seconds` each, and refuses others as overloaded."""

    def __init__(self, places: int, seconds: float = 0.01) -> None:
        self._places, self._seconds, self.busy, self.refused = places, seconds, 0, 0

    async def do(self) -> str:
        if self.busy == self._places:
            self.refused += 1
            raise GeneratorError(Failure.OVERLOADED, "full")
        self.busy += 1
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.busy -= 1
        return "done"


def soon(error: Exception) -> float:
    return 0.01


async def test_a_busy_service_gets_what_it_can_do_and_nothing_is_lost() -> None:
    service, patience = Service(2), Patience(60, *WHO, soon)
    assert await asyncio.gather(*[patience(service.do) for _ in range(200)]) == ["done"] * 200
    assert service.refused < 400  # had all asked again all the time, thousands


@pytest.mark.parametrize("failure", [Failure.OVERLOADED, Failure.UNAVAILABLE, Failure.TIMEOUT])
async def test_failures_that_pass_are_waited_for(failure: Failure) -> None:
    left = 2

    async def ask() -> str:
        nonlocal left
        left -= 1
        if left >= 0:
            raise GeneratorError(failure, "not now")
        return "done"

    assert await Patience(30, *WHO)(ask) == "done"


async def test_other_failures_are_raised_at_once() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        raise GeneratorError(Failure.INVALID, "never")

    with pytest.raises(GeneratorError, match="never"):
        await Patience(30, *WHO)(ask)
    assert asked == 1


async def test_where_nothing_works_only_the_first_call_waits() -> None:
    patience, service = Patience(0.3, *WHO, soon), Service(0)
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(GeneratorError, match="full"):
            await patience(service.do)
    assert time.monotonic() - began < 50 * 0.3 / 2
    service = Service(1)
    assert await patience(service.do) == "done"


async def test_one_who_leaves_gives_its_place_to_the_next() -> None:
    service, patience = Service(1, 0.05), Patience(30, *WHO, soon)
    calls = [asyncio.create_task(patience(service.do)) for _ in range(8)]
    await asyncio.sleep(0.02)
    for call in calls[2:6]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results.count("done") == 4


class Clock:
    """A clock that only a sleep advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Shown:
    """A display that keeps what it is told, with the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.waits: list[tuple[float, str, str, float]] = []
        self.ended: list[tuple[float, str]] = []

    def wait(self, service: str, why: str, left_s: float) -> None:
        self.waits.append((self._clock.now_s, service, why, left_s))

    def end(self, service: str) -> None:
        self.ended.append((self._clock.now_s, service))


def away_until(clock: Clock, seconds: float, error: Exception) -> Callable[[], Awaitable[str]]:
    async def ask() -> str:
        if clock.now_s < seconds:
            raise error
        return "done"

    return ask


AWAY = GeneratorError(Failure.UNAVAILABLE, "it cannot be reached")


async def test_a_service_that_is_away_is_shown_within_seconds_until_it_answers() -> None:
    clock = Clock()
    patience, shown = Patience(300, *WHO, clock=clock, sleep=clock.sleep), Shown(clock)
    with waiting.shown(shown):
        assert await patience(away_until(clock, 100, AWAY)) == "done"
    first_s, *about, left_s = shown.waits[0]
    assert first_s < 4
    assert about == ["the generator at here:50053", "it cannot be reached"]
    assert first_s + left_s == pytest.approx(300)
    assert len({round(at_s + left_s, 6) for at_s, _, _, left_s in shown.waits}) == 1  # they tell one end
    assert [service for _, service in shown.ended] == ["the generator at here:50053"]
    assert shown.ended[0][0] >= 100


async def test_a_service_that_never_comes_back_is_not_shown_for_longer_than_it_is_asked() -> None:
    clock = Clock()
    patience, shown = Patience(60, *WHO, clock=clock, sleep=clock.sleep), Shown(clock)
    with waiting.shown(shown), pytest.raises(GeneratorError):
        await patience(away_until(clock, math.inf, AWAY))
    assert shown.ended == [(pytest.approx(60), "the generator at here:50053")]
    assert max(at_s for at_s, *_ in shown.waits) <= 60


async def test_a_moment_of_business_is_not_shown() -> None:
    clock = Clock()
    patience, shown = Patience(300, *WHO, clock=clock, sleep=clock.sleep), Shown(clock)
    with waiting.shown(shown):
        for free_at_s in (0.2, 0.4, 0.6):  # it answers in between
            clock.now_s = free_at_s - 0.1
            assert await patience(away_until(clock, free_at_s, GeneratorError(Failure.OVERLOADED, "full"))) == "done"
    assert shown.waits == []


async def test_an_address_is_told_once() -> None:
    clock = Clock()
    patience = Patience(300, "gateway", "http://here:8080", lambda error: 2.0, clock, clock.sleep)
    shown = Shown(clock)
    with waiting.shown(shown):
        await patience(away_until(clock, 5, OSError("http://here:8080: refused")))
    assert shown.waits[0] == (2.0, "the gateway at http://here:8080", "refused", 298)
