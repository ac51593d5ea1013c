"""Windows of use and places for questions."""

import pytest

from common import metrics
from search_agent.errors import Failure, KeysError
from services.gateway.counters import Counters, MemoryCounters, SpareCounters, Window


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_window_opens_with_its_first_use_and_closes_when_it_is_full(clock: Clock) -> None:
    counters = MemoryCounters(clock)
    assert await counters.spend("a", 1, 2, 60) == Window(True, 1, 60)
    clock.now += 20
    assert await counters.spend("a", 1, 2, 60) == Window(True, 2, 40)
    assert await counters.spend("a", 1, 2, 60) == Window(False, 2, 40)
    assert (await counters.spend("b", 1, 2, 60)).spent
    clock.now += 40
    assert await counters.spend("a", 1, 2, 60) == Window(True, 1, 60)


async def test_what_is_already_used_is_counted_whatever_the_limit(clock: Clock) -> None:
    counters = MemoryCounters(clock)
    assert await counters.spend("a", 0, 10, 60) == Window(True, 0, 60)
    assert await counters.spend("a", 50, 0, 60) == Window(True, 50, 60)
    assert not (await counters.spend("a", 0, 10, 60)).spent
    assert (await counters.spend("a", 0, 0, 60)).spent


async def test_places_are_given_back_or_given_up(clock: Clock) -> None:
    counters = MemoryCounters(clock)
    assert await counters.hold("a", "x", 1, 30) == (True, 0)
    clock.now += 10
    assert await counters.hold("a", "y", 1, 30) == (False, 10)
    await counters.release("a", "x")
    assert await counters.hold("a", "y", 1, 30) == (True, 0)
    clock.now += 30
    assert (await counters.hold("a", "z", 1, 30))[0]


class Broken:
    """Counters whose Redis comes and goes."""

    def __init__(self) -> None:
        self.up, self.inner = True, MemoryCounters()

    async def spend(self, name: str, amount: int, limit: int, length_s: float) -> Window:
        self._check()
        return await self.inner.spend(name, amount, limit, length_s)

    async def hold(self, name: str, lease: str, limit: int, longest_s: float) -> tuple[bool, float]:
        self._check()
        return await self.inner.hold(name, lease, limit, longest_s)

    async def release(self, name: str, lease: str) -> None:
        self._check()
        await self.inner.release(name, lease)

    async def close(self) -> None:
        """Nothing."""

    def _check(self) -> None:
        if not self.up:
            raise KeysError(Failure.UNAVAILABLE, "gone")


async def test_without_redis_each_gateway_counts_for_itself_and_the_failure_is_counted() -> None:
    failed = metrics.AGENT_FAILURES.labels("keys", "unavailable")._value
    before = failed.get()
    shared = Broken()
    counters: Counters = SpareCounters(shared)
    assert (await counters.spend("a", 1, 1, 60)).spent
    shared.up = False
    assert (await counters.spend("a", 1, 1, 60)).spent
    assert not (await counters.spend("a", 1, 1, 60)).spent
    assert (await counters.hold("a", "x", 1, 60))[0]
    assert not (await counters.hold("a", "y", 1, 60))[0]
    await counters.release("a", "x")
    assert (await counters.hold("a", "y", 1, 60))[0]
    assert failed.get() - before == 6
    shared.up = True
    assert not (await counters.spend("a", 1, 1, 60)).spent
