"""How one model takes another's place, over models that only keep count."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from services.generator.hot_swap import HotSwap


@dataclass(eq=False)
class Fake:
    path: str
    adapter: str
    gone: bool = False
    closed: bool = field(default=False)

    @property
    def name(self) -> str:
        return f"{self.path}+{self.adapter}"

    def dead(self) -> bool:
        return self.gone

    async def close(self) -> None:
        self.closed = True


class Starter:
    """Starts fakes, keeps them and what served beside each, and fails while `error` is set."""

    def __init__(self) -> None:
        self.started: list[Fake] = []
        self.beside: list[Fake | None] = []
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, path: str, adapter: str, beside: Fake | None) -> Fake:
        await self.go.wait()
        if self.error:
            raise self.error
        self.beside.append(beside)
        self.started.append(Fake(path or (beside.path if beside else ""), adapter))
        return self.started[-1]


@pytest.fixture
async def swap():
    starter = Starter()
    swap = HotSwap(starter)
    await swap.begin("one", "a")
    swap.starter = starter
    yield swap
    await swap.close()
    assert all(fake.closed for fake in starter.started)


async def settled(swap: HotSwap[Fake]) -> None:
    while swap._tasks:
        await asyncio.gather(*swap._tasks, return_exceptions=True)


async def test_the_old_one_stays_for_requests_under_way(swap):
    with swap.use() as old:
        await swap.load("", "b")
        await asyncio.sleep(0)
        assert (swap.now.name, old.closed) == ("one+b", False)
        with swap.use() as new:
            assert new is swap.now
    await settled(swap)
    assert (old.closed, swap.now.closed) == (True, False)
    assert swap.starter.beside == [None, old]


async def test_a_load_that_fails_leaves_the_old_one(swap):
    before, swap.starter.error = swap.now, ValueError("no room")
    with pytest.raises(ValueError, match="no room"):
        await swap.load("two", "")
    assert swap.now is before
    assert not before.closed


async def test_a_load_is_completed_when_its_caller_goes_away(swap):
    swap.starter.go.clear()
    caller = asyncio.create_task(swap.load("two", ""))
    await asyncio.sleep(0)
    caller.cancel()
    swap.starter.go.set()
    await settled(swap)
    assert swap.now.name == "two+"


async def test_a_dead_one_is_closed_and_started_again_once(swap):
    dead = swap.now
    dead.gone = True
    for _ in range(3):
        swap.lost(dead)
    await settled(swap)
    assert (swap.now.name, dead.closed, swap.starter.beside) == ("one+a", True, [None, None])
    swap.lost(dead)
    await settled(swap)
    assert len(swap.starter.started) == 2


async def test_a_restart_that_fails_is_tried_by_the_next_to_notice(swap):
    dead, swap.starter.error = swap.now, ValueError("no room")
    dead.gone = True
    swap.lost(dead)
    await settled(swap)
    assert swap.now is dead
    swap.starter.error = None
    swap.lost(dead)
    await settled(swap)
    assert not swap.now.dead()


async def test_a_load_replaces_a_dead_one_too(swap):
    swap.now.gone = True
    await swap.load("", "b")
    assert (swap.now.name, swap.starter.beside[-1]) == ("one+b", None)
