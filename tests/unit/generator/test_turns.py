"""The order in which requests for several adapters enter llama.cpp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.generator.llama_server import Turns
from tests.waiting import settled


class Line:
    """Requests that enter one after the other, and leave when they are told to."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.inside: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaves: dict[str, asyncio.Event] = {}

    async def come(self, *requests: str) -> None:
        """Requests are called by their adapter and a number, as in "a1"."""
        for request in requests:
            self._leaves[request] = asyncio.Event()
            self._tasks[request] = asyncio.create_task(self._ask(request))
            await asyncio.sleep(0)
        await settled()

    async def leave(self, *requests: str) -> None:
        for request in requests:
            self._leaves[request].set()
        await settled()

    async def give_up(self, *requests: str) -> None:
        for request in requests:
            self._tasks[request].cancel()
        await settled()

    async def _ask(self, request: str) -> None:
        async with self.turns.turn(request[0]):
            self.inside.append(request)
            try:
                await self._leaves[request].wait()
            finally:
                self.inside.remove(request)


@asynccontextmanager
async def line() -> AsyncIterator[Line]:
    async with asyncio.timeout(5):
        yield Line()


async def test_requests_of_one_adapter_are_inside_together_and_nobody_overtakes() -> None:
    async with line() as requests:
        await requests.come("a1", "a2", "b1", "a3", "b2")
        assert requests.inside == ["a1", "a2"]
        await requests.leave("a1")
        assert requests.inside == ["a2"]
        await requests.leave("a2")
        assert requests.inside == ["b1"]
        await requests.leave("b1")
        assert requests.inside == ["a3"]
        await requests.leave("a3", "b2")
        assert requests.inside == []


async def test_a_caller_that_leaves_makes_room() -> None:
    async with line() as requests:
        await requests.come("a1", "b1", "a2")
        await requests.give_up("b1")
        assert requests.inside == ["a1", "a2"]
        await requests.come("b2", "c1")
        await requests.give_up("a1", "a2")
        assert requests.inside == ["b2"]
        await requests.leave("b2", "c1")
        await requests.come("b3")
        assert requests.inside == ["b3"]
        await requests.leave("b3")
