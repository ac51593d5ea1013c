"""ASGI middleware for request ids and one metric per request, and the counter of failures."""

from __future__ import annotations

import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders

from common import context, metrics
from search_agent.errors import BoundaryError


def count_failure(error: BoundaryError) -> None:
    """Counts a failed backend call. Called once per failure: by the problem or the cache that ends it."""
    metrics.AGENT_FAILURES.labels(error.boundary, error.failure).inc()


class Observed:
    """Is plain ASGI, so that streamed responses pass through untouched."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # answered as GET is; the server leaves the body out
            scope = {**scope, "method": "GET"}
        headers = Headers(scope=scope)
        ids = context.begin(
            {
                context.REQUEST_ID: headers.get("x-request-id", ""),
                context.TRACEPARENT: headers.get("traceparent", ""),
            }
        )
        started, status = time.perf_counter(), 499  # the caller left before the response began

        async def observed_send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = ids[context.REQUEST_ID]
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")  # a template, so that labels stay few
            metrics.HTTP_SECONDS.labels(route, status).observe(time.perf_counter() - started)
