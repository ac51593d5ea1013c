"""The way to one backend: its channel, the deadline of its calls, its breaker, and patience where a batch asks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any

from common import client, context
from common.breaker import Breaker
from common.patience import Patience
from search_agent.errors import BoundaryError


class Link:
    """Calls to one backend. Every method raises `boundary`."""

    def __init__(
        self, target: str, timeout_s: float, boundary: type[BoundaryError], model: str = "", patience_s: float = 0.0
    ) -> None:
        """Each call may take `timeout_s`. A backend that is busy or away is asked again for up to `patience_s`."""
        self.channel = client.connect(target)
        self._timeout_s, self._boundary = timeout_s, boundary
        self._breaker = Breaker(f"{boundary.boundary}/{model}" if model else boundary.boundary, boundary)
        self._patience = Patience(patience_s) if patience_s else None

    async def call(self, method: Any, request: Any) -> Any:
        """Makes a unary call that changes nothing."""

        async def ask() -> Any:
            return await self.once(method, request, self._timeout_s)

        return await (self._patience(ask) if self._patience else ask())

    async def once(self, method: Any, request: Any, timeout_s: float) -> Any:
        """Makes a unary call, which is not repeated."""
        with self._breaker.call(context.time_left(timeout_s) == timeout_s):
            return await client.call(method, request, timeout_s, self._boundary)

    async def upload(self, method: Any, requests: AsyncIterable[Any], timeout_s: float) -> Any:
        """Sends a client stream, which is not repeated, and returns its answer."""
        with self._breaker.call(context.time_left(timeout_s) == timeout_s):
            return await client.upload(method, requests, timeout_s, self._boundary)

    async def stream(self, method: Any, request: Any, timeout_s: float = 0.0) -> AsyncGenerator[Any, None]:
        """Reads a server stream. With patience, nothing is yielded before its end, so that it can be repeated."""
        if self._patience:

            async def ask() -> list[Any]:
                return [response async for response in self._read(method, request, timeout_s or self._timeout_s)]

            for response in await self._patience(ask):
                yield response
            return
        async with aclosing(self._read(method, request, timeout_s or self._timeout_s)) as responses:
            async for response in responses:
                yield response

    async def _read(self, method: Any, request: Any, timeout_s: float) -> AsyncGenerator[Any, None]:
        with self._breaker.call(context.time_left(timeout_s) == timeout_s):
            async with aclosing(client.stream(method, request, timeout_s, self._boundary)) as responses:
                async for response in responses:
                    yield response

    async def close(self) -> None:
        await self.channel.close()
