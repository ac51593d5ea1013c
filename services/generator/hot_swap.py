"""Replaces the model or adapter that serves by another one, for every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import structlog

log = structlog.get_logger()

_FAIL_S = 30.0  # time that a dead model's requests get to fail by themselves


class Serving(Protocol):
    """A loaded model with its adapter. `path` and `adapter` load the same again; `name` is its identity."""

    @property
    def path(self) -> str: ...
    @property
    def adapter(self) -> str: ...
    @property
    def name(self) -> str: ...

    def dead(self) -> bool: ...

    async def close(self) -> None:
        """Frees what nothing else uses. May be called twice."""
        ...


S = TypeVar("S", bound=Serving)


@dataclass(slots=True, eq=False)
class _Slot(Generic[S]):
    """The model that serves, and the number of requests in flight on it."""

    serving: S
    under_way: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    @contextmanager
    def use(self) -> Iterator[S]:
        self.under_way += 1
        self.idle.clear()
        try:
            yield self.serving
        finally:
            self.under_way -= 1
            if not self.under_way:
                self.idle.set()


class HotSwap(Generic[S]):
    """Serves one model with one adapter at a time, and starts it again if it dies.

    `start(path, adapter, beside)` loads them. `beside` is the model that serves meanwhile: an empty path means that
    model, and an engine may reuse what does not change. It is None for the first model and for a dead one's successor.
    """

    def __init__(self, start: Callable[[str, str, S | None], Awaitable[S]]) -> None:
        self._start = start
        self._slot: _Slot[S]
        self._old: list[_Slot[S]] = []  # requests may still be in flight on these
        self._restart: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()  # one load at a time: each may need the memory of a second model
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, path: str, adapter: str) -> None:
        """Loads the first model. Raises what `start` raises."""
        self._slot = _Slot(await self._start(path, adapter, None))

    @property
    def now(self) -> S:
        """The model that takes new requests."""
        return self._slot.serving

    @contextmanager
    def use(self) -> Iterator[S]:
        """Gives the model that takes new requests, and keeps it for as long as the context is open."""
        with self._slot.use() as serving:
            yield serving

    async def load(self, path: str, adapter: str) -> None:
        """Serves another model (empty: the same) with another adapter (empty: none).

        Requests in flight finish on the old one. Completes even if the caller leaves. Raises what `start` raises; the
        old model then stays.
        """
        await asyncio.shield(self._spawn(self._swap(path, adapter)))

    def lost(self, dead: S) -> None:
        """Restarts a model that died, once for all callers who notice. If that fails, the next caller tries again."""
        if dead is self.now and (self._restart is None or self._restart.done()):
            log.error("the model died", model=dead.name)
            self._restart = self._spawn(self._swap(dead.path, dead.adapter, dead))

    async def close(self) -> None:
        """Ends all models, and the requests in flight on them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in (self._slot, *self._old):
            await slot.serving.close()

    async def _swap(self, path: str, adapter: str, dead: S | None = None) -> None:
        """Replaces the model that serves; if `dead` is given, only if that is the one."""
        async with self._loading:
            old = self._slot
            if dead and dead is not old.serving:
                return
            if old.serving.dead():
                await _bury(old)
                new = await self._start(path or old.serving.path, adapter, None)
            else:
                new = await self._start(path, adapter, old.serving)
            self._slot = _Slot(new)
            self._old.append(old)
            self._spawn(self._retire(old))
            log.info("model loaded", model=new.name, before=old.serving.name)

    async def _retire(self, old: _Slot[S]) -> None:
        await old.idle.wait()
        await old.serving.close()
        self._old.remove(old)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("the model cannot be changed", error=" ".join(str(error).split()))


async def _bury(dead: _Slot[S]) -> None:
    """Closes a dead model before its successor starts, since its remains may hold a GPU's memory."""
    with suppress(TimeoutError):
        await asyncio.wait_for(dead.idle.wait(), _FAIL_S)
    await dead.serving.close()
