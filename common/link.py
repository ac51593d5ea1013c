"""The way to one backend: its channel, the deadline of its calls, its breaker, and patience for batch clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AbstractContextManager, aclosing
from typing import Any

from common import client, context
from common.breaker import Breaker
from common.patience import Patience
from search_agent.errors import BoundaryError

_WATCH_S = 7 * 24 * 3600.0


class Link:
    """Calls to one backend. Every method raises `boundary`."""

    def __init__(
        self, target: str, timeout_s: float, boundary: type[BoundaryError], name: str = "", patience_s: float = 0.0
    ) -> None:
        """A call may take `timeout_s`, unless it has a time of its own. The breaker's metric has `name`, or the
        boundary's.

        A backend that is busy or away is asked again for up to `patience_s`.
        """
        self.channel = client.connect(target)
        self._timeout_s, self._boundary = timeout_s, boundary
        self._breaker = Breaker(name or boundary.boundary, boundary)
        self._patience = Patience(patience_s, boundary.boundary, target) if patience_s else None

    @property
    def is_open(self) -> bool:
        """Whether a call would be refused now, because the backend keeps failing."""
        return self._breaker.is_open

    async def call(self, method: Any, request: Any) -> Any:
        """Makes a unary call that changes nothing."""

        async def ask() -> Any:
            return await self.once(method, request)

        return await (self._patience(ask) if self._patience else ask())

    async def once(self, method: Any, request: Any, timeout_s: float = 0.0) -> Any:
        """Makes a unary call, which is not repeated."""
        longest_s = timeout_s or self._timeout_s
        with self._held(longest_s):
            return await client.call(method, request, longest_s, self._boundary)

    async def upload(self, method: Any, requests: AsyncIterable[Any], timeout_s: float = 0.0) -> Any:
        """Sends a client stream, which is not repeated, and returns its answer."""
        longest_s = timeout_s or self._timeout_s
        with self._held(longest_s):
            return await client.upload(method, requests, longest_s, self._boundary)

    async def stream(self, method: Any, request: Any, timeout_s: float = 0.0) -> AsyncGenerator[Any, None]:
        """Reads a server stream, which is not repeated."""
        longest_s = timeout_s or self._timeout_s
        with self._held(longest_s):
            async with aclosing(client.stream(method, request, longest_s, self._boundary)) as responses:
                async for response in responses:
                    self._breaker.answers()
                    yield response

    async def watch(self, method: Any, request: Any) -> AsyncGenerator[Any, None]:
        """Reads a server stream that has no end of its own. The way it ends does not affect the breaker."""
        async with aclosing(client.stream(method, request, _WATCH_S, self._boundary)) as responses:
            async for response in responses:
                yield response

    def _held(self, longest_s: float) -> AbstractContextManager[None]:
        """Holds a call of that many seconds at most."""
        return self._breaker.call(counts_time=context.time_left(longest_s) == longest_s)

    async def close(self) -> None:
        await self.channel.close()
