"""A call that a service is too busy for is repeated, more slowly, and not for ever."""

import asyncio
import time

import pytest

from common.patience import Patience
from search_agent.errors import Failure, GeneratorError


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
    service, patience = Service(2), Patience(60, soon)
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

    assert await Patience(30)(ask) == "done"


async def test_other_failures_are_raised_at_once() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        raise GeneratorError(Failure.INVALID, "never")

    with pytest.raises(GeneratorError, match="never"):
        await Patience(30)(ask)
    assert asked == 1


async def test_where_nothing_works_only_the_first_call_waits() -> None:
    patience, service = Patience(0.3, soon), Service(0)
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(GeneratorError, match="full"):
            await patience(service.do)
    assert time.monotonic() - began < 50 * 0.3 / 2
    service = Service(1)
    assert await patience(service.do) == "done"


async def test_one_who_leaves_gives_its_place_to_the_next() -> None:
    service, patience = Service(1, 0.05), Patience(30, soon)
    calls = [asyncio.create_task(patience(service.do)) for _ in range(8)]
    await asyncio.sleep(0.02)
    for call in calls[2:6]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results.count("done") == 4
