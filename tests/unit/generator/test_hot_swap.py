"""How one model takes another's place, over models that only keep count."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from search_agent.errors import GeneratorError
from services.generator.hot_swap import HotSwap
from services.generator.models import Models


@dataclass(eq=False)
class Fake:
    models: Models
    gone: bool = False
    closed: bool = field(default=False)

    @property
    def identities(self) -> dict[str, str]:
        return {name: f"{self.models.path}+{self.models.adapter(name)}" for name in self.models.names}

    def dead(self) -> bool:
        return self.gone

    async def close(self) -> None:
        self.closed = True


class Starter:
    """Starts fakes, keeps them, what each replaced and what changed, and fails while `error` is set."""

    def __init__(self) -> None:
        self.started: list[Fake] = []
        self.old: list[tuple[Fake | None, str]] = []
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, models: Models, old: Fake | None, changed: str) -> Fake:
        await self.go.wait()
        if self.error:
            raise self.error
        self.old.append((old, changed))
        self.started.append(Fake(replace(models, path=models.path or (old.models.path if old else ""))))
        return self.started[-1]


@pytest.fixture
async def swap():
    starter = Starter()
    swap = HotSwap(starter)
    await swap.begin(Models("one", {"searcher": "/a"}))
    swap.starter = starter
    yield swap
    await swap.close()
    assert all(fake.closed for fake in starter.started)


def serves(swap: HotSwap[Fake]) -> str:
    return swap.now.identities["searcher"]


async def settled(swap: HotSwap[Fake]) -> None:
    while swap._tasks:
        await asyncio.gather(*swap._tasks, return_exceptions=True)


async def test_the_old_one_stays_for_requests_under_way(swap):
    with swap.use() as old:
        await swap.load("searcher", "", "/b")
        await asyncio.sleep(0)
        assert (serves(swap), old.closed) == ("one+/b", False)
        with swap.use() as new:
            assert new is swap.now
    await settled(swap)
    assert (old.closed, swap.now.closed) == (True, False)
    assert swap.starter.old == [(None, ""), (old, "searcher")]


async def test_a_load_that_fails_leaves_the_old_one(swap):
    before, swap.starter.error = swap.now, ValueError("no room")
    with pytest.raises(ValueError, match="no room"):
        await swap.load("searcher", "two", "")
    assert swap.now is before
    assert not before.closed


async def test_a_load_is_completed_when_its_caller_goes_away(swap):
    swap.starter.go.clear()
    caller = asyncio.create_task(swap.load("searcher", "two", ""))
    await asyncio.sleep(0)
    caller.cancel()
    swap.starter.go.set()
    await settled(swap)
    assert serves(swap) == "two+"


async def test_a_dead_one_is_closed_and_started_again_once(swap):
    dead = swap.now
    dead.gone = True
    for _ in range(3):
        swap.renew(dead)
    await settled(swap)
    assert (serves(swap), dead.closed, swap.starter.old) == ("one+/a", True, [(None, ""), (dead, "")])
    swap.renew(dead)
    await settled(swap)
    assert len(swap.starter.started) == 2


async def test_a_restart_that_fails_is_tried_by_the_next_to_notice(swap):
    dead, swap.starter.error = swap.now, ValueError("no room")
    dead.gone = True
    swap.renew(dead)
    await settled(swap)
    assert swap.now is dead
    swap.starter.error = None
    swap.renew(dead)
    await settled(swap)
    assert not swap.now.dead()


async def test_a_load_replaces_a_dead_one_too(swap):
    dead = swap.now
    dead.gone = True
    await swap.load("searcher", "", "/b")
    assert (serves(swap), swap.starter.old[-1]) == ("one+/b", (dead, "searcher"))


@pytest.mark.parametrize(
    ("name", "path", "field"), [("base", "", "model"), ("searcher", "two", "path"), ("reader", "two", "path")]
)
async def test_a_load_never_changes_what_other_names_serve(name, path, field):
    starter = Starter()
    swap = HotSwap(starter)
    await swap.begin(Models("one", {"searcher": "/a", "reader": "/r"}))
    with pytest.raises(GeneratorError) as caught:
        await swap.load(name, path, "/b")
    assert caught.value.field == field
    await swap.load("searcher", "one", "/b")  # the model that serves, told by its path
    assert swap.now.identities == {"searcher": "one+/b", "reader": "one+/r", "base": "one+"}
    await swap.close()
