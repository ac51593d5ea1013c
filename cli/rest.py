"""The gateway's REST API as the command line calls it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from common.lines import EventStream


class AskError(Exception):
    """The gateway could not be asked, or answered with a problem."""


def call(
    method: str,
    url: str,
    body: object = None,
    params: Mapping[str, str] | None = None,
    timeout_s: float | None = 300,
) -> Any:
    """The response's JSON. Raises AskError."""
    import httpx  # here and below, so that the command line answers --help at once

    from common import http

    try:
        with http.client(httpx.Client, url, timeout=httpx.Timeout(timeout_s, connect=5)) as server:
            response = server.request(method, url, json=body, params=params)
        if response.is_error:
            raise AskError(_detail(response.content))
        return response.json()
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise _unreachable(url, error) from error


def events(
    method: str, url: str, body: object = None, timeout_s: float | None = 300
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and data of each Server-Sent Event. Raises AskError, also for the event `error`."""
    import httpx

    from common import http

    try:
        with (
            http.client(httpx.Client, url, timeout=httpx.Timeout(timeout_s, connect=5)) as server,
            server.stream(method, url, json=body) as response,
        ):
            if response.is_error:
                raise AskError(_detail(response.read()))
            stream = EventStream()
            for chunk in response.iter_bytes():
                for event, text in stream.feed(chunk):
                    data = json.loads(text)
                    if event == "error":
                        raise AskError(data["detail"])
                    yield event, data
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> AskError:
    from common.http import through

    return AskError(f"{url}{through(url)}: {error}; is the gateway running there?")


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:500]
