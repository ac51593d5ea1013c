"""The gateway's REST API as the command line calls it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from common.lines import EventStream
from common.problems import Problem


class AskError(Problem):
    """The gateway could not be asked, or answered with a problem."""


class _Fields(dict[str, Any]):
    """A JSON object of an answer. Only another server, or another version of ours, leaves out a field."""

    def __missing__(self, name: str) -> Any:
        raise AskError(f"the answer has no {name!r}: another server, or a gateway of another version")


def call(
    method: str,
    url: str,
    body: object = None,
    params: Mapping[str, str] | None = None,
    timeout_s: float | None = 300,
    kind: type[Any] = dict,
) -> Any:
    """Returns the response's JSON, a `kind`. Raises AskError."""
    import httpx  # here and below, so that the command line answers --help at once

    from common import http

    try:
        with http.client(httpx.Client, url, timeout=httpx.Timeout(timeout_s, connect=5)) as server:
            response = server.request(method, url, json=body, params=params)
        if response.is_error:
            raise AskError(_detail(response.content))
        found = _read(response.content)
    except (httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreachable(url, error) from error
    if not isinstance(found, kind):
        raise AskError(f"{url}: the answer is not a JSON {kind.__name__}; is the gateway running there?")
    return found


def events(
    method: str, url: str, body: object = None, timeout_s: float | None = 300
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and data of each Server-Sent Event. Raises AskError, also for the event `error`."""
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
                    data = _read(text)
                    if event == "error":
                        raise AskError(data["detail"])
                    yield event, data
    except (httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError) as error:
        raise _unreachable(url, error) from error


def _read(text: str | bytes) -> Any:
    return json.loads(text, object_hook=_Fields)


def _unreachable(url: str, error: Exception) -> AskError:
    from common.http import through

    return AskError(f"{url}{through(url)}: {error}; is the gateway running there?")


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return " ".join(body.decode("utf-8", "replace").split())[:500]
