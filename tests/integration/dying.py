"""Work for actors of Ray that die or never start. Each actor imports this module, so it is kept light."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from evaluation import run
from evaluation.endpoints import Endpoints
from evaluation.errors import Failed
from evaluation.rows import Row


@asynccontextmanager
async def dying(
    endpoints: Endpoints, text: str, marker: Path, times: int
) -> AsyncIterator[Callable[[run.Task], Awaitable[Row]]]:
    """Returns an asker whose process dies at a question, `times` times, once the other questions have been asked."""
    async with run.asking(endpoints) as ask:

        async def work(task: run.Task) -> Row:
            if (task.question.text, task.method) == (text, "s3") and len(deaths(marker)) < times:
                with marker.open("a") as file:
                    file.write(f"{os.getpid()}\n")
                await asyncio.sleep(0.05)
                os._exit(1)
            return await ask(task)

        yield work


def deaths(marker: Path) -> set[str]:
    """Returns the ids of the processes that have died."""
    return set(marker.read_text().split()) if marker.exists() else set()


@asynccontextmanager
async def unopened() -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """Fails where an asker would be opened."""
    raise Failed("gateway", "unavailable", "nothing here")
    yield
