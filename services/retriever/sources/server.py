"""Asks a server for JSON over HTTP: bounded in time and bytes, with failures that name the index and no address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from common.http import TooLarge, client, through, whole
from search_agent.errors import Failure, RetrieverError
from services.retriever.sources.config import HttpConfig

_CONNECT_S = 3.0
AT_ONCE = 8  # calls; others wait, and their time runs
_REDIRECTS = 3
_FAILURES = {408: Failure.TIMEOUT, 429: Failure.OVERLOADED, 504: Failure.TIMEOUT}


class Server:
    """The server of one index, and its API key or the empty text. Raises httpx.ProxyError.

    A connection that fails is tried once more. Redirects are followed on the same host only.
    """

    def __init__(self, index: str, config: HttpConfig, key: str) -> None:
        self._index, self._timeout_s, self._hints = index, config.timeout_s, config.hints
        self._through = " through its proxy" if through(config.url) else ""
        self._http = client(
            httpx.AsyncClient,
            config.url,
            headers={"User-Agent": "search-agent", **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE),
        )

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Holds everything that is asked inside to the time limit. Raises RetrieverError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            raise self.failed(f"did not answer within {self._timeout_s:g} s", Failure.TIMEOUT) from error

    async def json(self, method: str, url: str, **content: Any) -> Any:
        """Returns the JSON that the server answers, with null for NaN. Raises RetrieverError."""
        body = await self._body(self._http.build_request(method, url, **content))
        try:
            return await asyncio.to_thread(json.loads, body, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise self.failed("answered with something that is not JSON") from error

    def failed(self, what: str, failure: Failure = Failure.UNAVAILABLE) -> RetrieverError:
        """Returns the error that says what the server did. Its field says that other indexes are not concerned."""
        return RetrieverError(failure, f"the server of index {self._index!r} {what}", "index")

    async def close(self) -> None:
        await self._http.aclose()

    async def _body(self, request: httpx.Request) -> bytes:
        for attempt in (1, 2):
            try:
                return await self._read(request)
            except httpx.TimeoutException as error:
                raise self.failed(f"cannot be reached in {_CONNECT_S:g} s{self._through}", Failure.TIMEOUT) from error
            except httpx.TransportError as error:
                if attempt == 2:
                    raise self.failed(f"cannot be reached{self._through}") from error
            except httpx.HTTPError as error:
                raise self.failed("answered with something that cannot be decoded") from error
        raise AssertionError("the last attempt returns or raises")

    async def _read(self, request: httpx.Request) -> bytes:
        for _ in range(_REDIRECTS + 1):
            response = await self._http.send(request, stream=True)
            try:
                following = response.next_request
                if following is None:
                    return await self._whole(response)
            finally:
                await response.aclose()
            if following.url.host != request.url.host:
                raise self.failed("redirects to another host")
            request = following
        raise self.failed("redirects too often")

    async def _whole(self, response: httpx.Response) -> bytes:
        status = response.status_code
        if status != 200:
            hint = f"; {self._hints[status]}" if status in self._hints else ""
            raise self.failed(f"answered with status {status}{hint}", _FAILURES.get(status, Failure.UNAVAILABLE))
        try:
            return await whole(response)
        except TooLarge as error:
            raise self.failed(f"answered with {error}") from None
