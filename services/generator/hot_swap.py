"""Replaces the serving models with others, for every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import structlog

from common.error_text import one_line
from services.generator.models import Models

log = structlog.get_logger()

_FAIL_S = 30.0  # time that a dead model's requests get to fail by themselves


class Serving(Protocol):
    """Loaded models. `models` load the same again; `identities` are their "name@version" by name, `base` among them."""

    @property
    def models(self) -> Models: ...
    @property
    def identities(self) -> Mapping[str, str]: ...

    def dead(self) -> bool: ...

    async def close(self) -> None:
        """Frees what nothing else uses. May be called twice."""
        ...


S = TypeVar("S", bound=Serving)


@dataclass(slots=True, eq=False)
class _Slot(Generic[S]):
    """The models that serve, and the number of requests in flight on them."""

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


class Start(Protocol[S]):
    """Loads models in the place of `old`, which serve until then unless they have died; None for the first ones.

    An empty path means the base model of `old`, and only `changed` has another adapter than theirs: what does not
    change and is still in memory is kept as it is, whatever has become of its files.
    """

    def __call__(self, models: Models, old: S | None, changed: str) -> Awaitable[S]: ...


class HotSwap(Generic[S]):
    """Serves models, puts others in their place, and starts them again if they die."""

    def __init__(self, start: Start[S]) -> None:
        self._start = start
        self._slot: _Slot[S]
        self._old: list[_Slot[S]] = []  # requests may still be in flight on these
        self._renewal: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()  # one load at a time: each may need the memory of a second model
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, models: Models) -> None:
        """Loads the first models. Raises what `start` raises."""
        self._slot = _Slot(await self._start(models, None, ""))

    @property
    def now(self) -> S:
        """The models that take new requests."""
        return self._slot.serving

    @contextmanager
    def use(self) -> Iterator[S]:
        """Yields the models that take new requests, and keeps them loaded while the context is open."""
        with self._slot.use() as serving:
            yield serving

    async def load(self, name: str, path: str, adapter: str) -> None:
        """Serves another adapter (empty: none) under a name, on another base model (empty: the same).

        Requests in flight finish on the old one. Completes even if the caller leaves. Raises what `start` and
        `Models.changed` raise; the old models then stay.
        """
        await asyncio.shield(self._spawn(self._swap(lambda models: models.changed(name, path, adapter), name)))

    def renew(self, old: S) -> None:
        """Starts dead or worn models anew, once for all callers. If that fails, the next caller tries again."""
        if old is self.now and (self._renewal is None or self._renewal.done()):
            log.error("the model is started anew", models=dict(old.identities), died=old.dead())
            self._renewal = self._spawn(self._swap(lambda models: models, only=old))

    async def close(self) -> None:
        """Ends all models, and the requests in flight on them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in (self._slot, *self._old):
            await slot.serving.close()

    async def _swap(self, change: Callable[[Models], Models], name: str = "", only: S | None = None) -> None:
        """Replaces the models that serve; if `only` is given, only if those are the ones."""
        async with self._loading:
            old = self._slot
            if only and only is not old.serving:
                return
            models = change(old.serving.models)
            if old.serving.dead():
                await _bury(old)
            new = await self._start(models, old.serving, name)
            self._slot = _Slot(new)
            self._old.append(old)
            self._spawn(self._retire(old))
            log.info("model loaded", models=dict(new.identities), before=dict(old.serving.identities))

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
            log.error("the model cannot be changed", error=one_line(error))


async def _bury(dead: _Slot[S]) -> None:
    """Closes a dead model before its successor starts, because its remains may hold GPU memory."""
    with suppress(TimeoutError):
        await asyncio.wait_for(dead.idle.wait(), _FAIL_S)
    await dead.serving.close()
