"""Calls over one link share its breaker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from common.link import Link
from search_agent.errors import TrainerError


class Down(grpc.aio.AioRpcError):
    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "down")


class Endless:
    """A stream that is silent after its first answer."""

    def __init__(self, request: Any, **_: Any) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(99)

    def cancel(self) -> None:
        pass


async def test_an_endless_stream_that_tries_a_backend_lets_others_call_once_it_answers() -> None:
    async def down(request: Any, **_: Any) -> str:
        raise Down

    async def up(request: Any, **_: Any) -> str:
        return "answer"

    link = Link("127.0.0.1:1", 9, TrainerError)
    for _ in range(5):
        with pytest.raises(TrainerError):
            await link.once(down, "q")
    await asyncio.sleep(1.01)
    async with aclosing(link.stream(Endless, "q")) as events:
        assert await anext(events) == "first"
        assert await link.once(up, "q") == "answer"
    await link.close()
