"""HTTP clients: no proxy stands before this machine and private networks, and answers are bounded in time and bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from common.addresses import is_near

C = TypeVar("C")
MAX_BYTES = 16 * 1024 * 1024  # of an answer, unpacked


class TooLarge(httpx.HTTPError):
    """The answer is longer than it may be."""


async def fetch(
    http: httpx.AsyncClient, method: str, url: str, most_bytes: int = MAX_BYTES, **request: Any
) -> httpx.Response:
    """Sends a request and returns its whole answer.

    All of it may take as long as the client's `timeout` lets a read take. Raises httpx.HTTPError: ReadTimeout and
    TooLarge too.
    """
    try:
        async with asyncio.timeout(http.timeout.read), http.stream(method, url, **request) as response:
            body = await whole(response, most_bytes)
    except TimeoutError:
        raise httpx.ReadTimeout(f"no complete answer within {http.timeout.read:g} s") from None
    headers = httpx.Headers(response.headers)
    headers.pop("content-encoding", None)  # the body is unpacked
    return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)


async def whole(response: httpx.Response, most_bytes: int = MAX_BYTES) -> bytes:
    """Reads the body of a response that was sent for with `stream`. Raises TooLarge and httpx.HTTPError."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > most_bytes:
            raise TooLarge(f"more than {most_bytes >> 20} MiB")
    return bytes(body)


def client(make: Callable[..., C], url: str, **options: Any) -> C:
    """Makes a client (`httpx.Client`, `httpx.AsyncClient` or one that takes the same) for one server.

    A server that is not near is asked as `HTTP_PROXY`, `NO_PROXY` and the like say. Raises httpx.ProxyError for a
    proxy of the environment that cannot be used.
    """
    try:
        parts = urlsplit(url)
        if is_near(parts.hostname or ""):
            options["trust_env"] = False
            if parts.scheme == "https":  # certificates of the environment (SSL_CERT_FILE) count all the same
                options = {"verify": httpx.create_ssl_context(), **options}
        return make(**options)
    except (ImportError, ValueError) as error:
        raise httpx.ProxyError(f"{url} cannot be asked{through(url)}: {error}") from error


def through(url: str) -> str:
    """Returns " through the proxy …" for a URL that is asked through one, else the empty text: for errors."""
    parts = urlsplit(url)
    proxies, host = getproxies(), parts.hostname or ""
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or is_near(host) or proxy_bypass(host):
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]}"  # without its password
