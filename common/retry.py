"""POST requests that are sent again while the server is overloaded."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

ATTEMPTS = 4
_LONGEST_S = 30.0


async def post(http: httpx.AsyncClient, url: str, **request: Any) -> httpx.Response:
    """Returns the response, the last of at most ATTEMPTS. Status 429, and 503 that names no backend, are retried.

    Waits as long as Retry-After says, but at most 30 seconds. Raises httpx.HTTPError.
    """
    for _ in range(ATTEMPTS - 1):
        response = await http.post(url, **request)
        if not _full(response):
            return response
        after = response.headers.get("retry-after", "")
        await asyncio.sleep(pause_s(float(after) if after.isdecimal() else None))
    return await http.post(url, **request)


def pause_s(retry_after_s: float | None) -> float:
    """Returns the seconds to wait before another attempt: what the server says, but at most 30."""
    return 2.0 if retry_after_s is None else min(retry_after_s, _LONGEST_S)


def _full(response: httpx.Response) -> bool:
    return response.status_code == 429 or (response.status_code == 503 and b'"backend"' not in response.content)
