"""Waits for what other processes and tasks do, as long as a slow machine may need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

LIMIT_S, POLL_S = 300, 0.005


def until(done: Callable[[], object]) -> None:
    """Waits until `done` returns something true; raises TimeoutError after LIMIT_S."""
    limit = time.monotonic() + LIMIT_S
    while not done():
        if time.monotonic() > limit:
            raise TimeoutError
        time.sleep(POLL_S)


async def until_async(done: Callable[[], Awaitable[object]]) -> None:
    """Waits until what `done` awaits is true; raises TimeoutError after LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not await done():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)


async def until_here(done: Callable[[], object]) -> None:
    """Waits, while the tasks of this loop go on, until `done` returns something true."""

    async def asked() -> object:
        return done()

    await until_async(asked)


async def settled() -> None:
    """Lets the other tasks of this loop run until they wait for something."""
    for _ in range(5):
        await asyncio.sleep(0)
