"""ASGI middleware for ids, one metric and one span per request, and the counters of questions and failures."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders

from common import context, metrics, tracing
from search_agent.errors import BoundaryError
from search_agent.types import Trajectory

log = structlog.get_logger()
_CHECKS = ("/healthz", "/readyz", "/metrics")  # asked every few seconds


def count_failure(error: BoundaryError) -> None:
    """Counts a failed backend call. Called once per failure: by the problem or the cache that ends it."""
    metrics.AGENT_FAILURES.labels(error.boundary, error.failure).inc()


def count_question(trajectory: Trajectory) -> None:
    """Counts and logs a finished question, with its times and its cost."""
    method, timings = trajectory.method, trajectory.timings
    metrics.AGENT_QUESTIONS.labels(method, trajectory.stop_reason).inc()
    for stage in ("total", "retrieve", "search", "generate"):
        metrics.AGENT_STAGE_SECONDS.labels(method, stage).observe(getattr(timings, stage) / 1e3, tracing.exemplar())
    metrics.AGENT_SEARCHES.labels(method).observe(trajectory.usage.searches)
    metrics.AGENT_DOCUMENTS.labels(method).observe(len(trajectory.documents))
    metrics.AGENT_DROPPED_PASSAGES.labels(method).inc(len(trajectory.dropped))
    metrics.AGENT_REWRITTEN_TURNS.labels(method).inc(trajectory.usage.rewritten)
    metrics.AGENT_INVALID_TURNS.labels(method).inc(sum(bool(turn.error) for turn in trajectory.turns))
    log.info(
        "question answered" if trajectory.answer is not None else "documents found",
        method=method,
        stop_reason=trajectory.stop_reason,
        turns=len(trajectory.turns),
        documents=len(trajectory.documents),
        total_ms=round(timings.total, 1),
    )


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
        incoming = {
            context.REQUEST_ID: headers.get("x-request-id", ""),
            context.TRACEPARENT: headers.get("traceparent", ""),
        }
        with _span(scope, context.traceparent_of(incoming)) as span:
            ids = context.begin(incoming, span.traceparent)
            started, status = time.perf_counter(), 499  # the caller left before the response began

            async def observed_send(message: Any) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    given = {"x-request-id": ids[context.REQUEST_ID], "x-trace-id": context.trace_id()}
                    MutableHeaders(scope=message).update(given)
                await send(message)

            try:
                await self._app(scope, receive, observed_send)
            finally:
                route = getattr(scope.get("route"), "path", "unknown")  # a template, so that labels stay few
                elapsed = time.perf_counter() - started
                metrics.HTTP_SECONDS.labels(route, status).observe(elapsed, tracing.exemplar())
                span.rename(f"{scope['method']} {route}")
                span.set({"http.route": route, "http.response.status_code": status})
                if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    span.fail(str(status))


def _span(scope: Any, traceparent: str) -> tracing.Span:
    if scope["path"] in _CHECKS:
        return tracing.NOBODY
    return tracing.serve(scope["method"], traceparent, {"http.request.method": scope["method"]})
