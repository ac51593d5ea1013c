"""The two clients. They differ in how bytes travel; `operations.py` says what travels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

import httpx

from common import http
from search_agent.errors import Failure
from search_agent_client.api import Api
from search_agent_client.errors import GatewayError, Unreachable
from search_agent_client.requests import Request, Sent, Stream, check

T = TypeVar("T")

LOCAL = "http://127.0.0.1:8080"
_CONNECT_S = 5.0
_LONGEST_S = 1e9  # that the gateway can be told


class _Connection(Generic[T]):
    """A gateway's address, and an httpx client for it."""

    def __init__(
        self, make: Callable[..., T], url: str, api_key: str, timeout_s: float | None, options: dict[str, Any]
    ) -> None:
        if not api_key.isascii() or any(not 32 < ord(character) < 127 for character in api_key):
            raise GatewayError("the API key holds characters that no key has", Failure.INVALID)
        self.url, self._timeout_s = url, timeout_s
        headers = httpx.Headers(options.get("headers"))
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        with self.reaching():
            self.http = http.client(make, url, base_url=url, **options | {"headers": headers})

    def sent(self, sent: Sent, is_whole: bool = True, endless: bool = False) -> dict[str, Any]:
        """Returns the arguments of httpx's `request` and `stream`.

        The time for an answer that `is_whole` is that of the request, and not of each event.
        """
        longest = None if endless or self._timeout_s is None else self._timeout_s + sent.patience_s
        headers = {} if sent.blocks is None else {"content-type": "application/x-ndjson"}
        if is_whole and longest is not None and sent.blocks is None and longest < _LONGEST_S:
            headers["x-request-timeout"] = f"{longest:.3f}"  # the gateway does not work on for who has given up
        return {
            "method": sent.method,
            "url": sent.path,
            "json": sent.given,
            "content": sent.blocks,
            "headers": headers,
            "params": sent.query,
            "timeout": httpx.Timeout(longest, connect=_CONNECT_S),
        }

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turns httpx's errors into ours."""
        try:
            yield
        except httpx.TimeoutException as error:
            waited = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
            raise Unreachable(f"{self.url}{http.through(self.url)}: {waited} in time", Failure.TIMEOUT) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = str(error) or type(error).__name__
            where = f"{self.url}{http.through(self.url)}"
            raise Unreachable(f"{where}: {said}; is the gateway running there?", Failure.UNAVAILABLE) from error


class Client(Api):
    """Calls a gateway and waits. Threads may share it."""

    def __init__(self, url: str = LOCAL, api_key: str = "", timeout_s: float | None = 300, **options: Any) -> None:
        """`url` may have a path, for a gateway behind a proxy. `options` are httpx.Client's.

        `timeout_s` limits the wait for an answer, or for the next event of a stream. It does not apply to the streams
        of training runs and promotions, which may be silent for long. Raises GatewayError for a key that cannot be
        sent.
        """
        self.url = url
        self._connection = _Connection(httpx.Client, url, api_key, timeout_s, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.http.close()

    def send(self, request: Request[T]) -> T:
        """Sends an operation's request. Raises GatewayError."""
        with self._connection.reaching():
            response = self._connection.http.request(**self._connection.sent(request.sent))
        return request.read(response.status_code, response.headers, response.content)

    def stream(self, stream: Stream[T]) -> Generator[T, None, None]:
        """Sends an operation's request and yields its events. Raises GatewayError."""
        reader = stream.reader()
        with (
            self._connection.reaching(),
            self._connection.http.stream(**self._connection.sent(stream.sent, False, stream.endless)) as response,
        ):
            if not response.is_success:
                check(stream.sent, response.status_code, response.headers, response.read())
            for chunk in response.iter_bytes():
                yield from reader.feed(chunk)
        reader.end()


class AsyncClient(Api):
    """Calls a gateway from asyncio."""

    def __init__(self, url: str = LOCAL, api_key: str = "", timeout_s: float | None = 300, **options: Any) -> None:
        """Takes what `Client` takes; `options` are httpx.AsyncClient's."""
        self.url = url
        self._connection = _Connection(httpx.AsyncClient, url, api_key, timeout_s, options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.http.aclose()

    async def send(self, request: Request[T]) -> T:
        """Sends an operation's request. Raises GatewayError."""
        arguments = self._connection.sent(request.sent)
        if request.sent.blocks is not None:
            arguments["content"] = _awaitable(request.sent.blocks)
        with self._connection.reaching():
            response = await self._connection.http.request(**arguments)
        return request.read(response.status_code, response.headers, response.content)

    async def stream(self, stream: Stream[T]) -> AsyncGenerator[T, None]:
        """Sends an operation's request and yields its events. Raises GatewayError."""
        reader = stream.reader()
        with self._connection.reaching():
            async with self._connection.http.stream(
                **self._connection.sent(stream.sent, False, stream.endless)
            ) as response:
                if not response.is_success:
                    check(stream.sent, response.status_code, response.headers, await response.aread())
                async for chunk in response.aiter_bytes():
                    for event in reader.feed(chunk):
                        yield event
        reader.end()


async def _awaitable(blocks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Yields the blocks; a thread makes them, as they may come from a slow source."""
    source = iter(blocks)
    while (block := await asyncio.to_thread(next, source, None)) is not None:
        yield block
