"""Spans of the request being served. They cost nothing, and import nothing, unless `configure` finds an OTLP endpoint.

Names and attributes follow OpenTelemetry's semantic conventions. A span never holds a question, a query, a passage or
an answer unless it `reveals` them, and of an error it holds the kind only: messages quote what they failed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Literal, Protocol

from common.settings import TracingSettings
from search_agent.errors import BoundaryError

Attribute = str | bool | int | float | list[str] | None
Attributes = Mapping[str, Attribute]
Kind = Literal["internal", "client", "server"]


class Span:
    """A piece of work that nobody records. As a context manager it is the current span."""

    records = False
    reveals = False  # may hold questions, queries, passages and answers
    traceparent = ""  # its identity as W3C's Trace Context writes it

    def set(self, attributes: Attributes) -> None:
        """Adds attributes; those that are None are left out."""

    def rename(self, name: str) -> None:
        """Gives the span the name that is known by now."""

    def link(self, traceparent: str) -> None:
        """Refers to a span of another request."""

    def stages(self, **seconds: float) -> None:
        """Adds spans for the stages of this one, which followed each other until now and took so many seconds."""

    def fail(self, kind: str) -> None:
        """Marks the span as failed."""

    def end(self) -> None:
        """Ends the work."""

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class Recorded(Span):
    """A span that is recorded; a subclass says where."""

    records = True
    failed = False
    _before: Span

    def __enter__(self) -> Span:
        self._before = _current.get()
        _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not by a token: a generator may be closed in another context than the one in which it began.
        _current.set(self._before)
        if self.failed:
            pass
        elif isinstance(error, BoundaryError):
            self.fail(f"{error.boundary}.{error.failure}")
        elif isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self.set({"search_agent.cancelled": True})
        elif error:
            self.fail(type(error).__name__)
        self.end()


class Tracer(Protocol):
    """Makes spans and has them exported."""

    def span(self, name: str, kind: Kind, attributes: Attributes, parent: str | Span) -> Span:
        """Returns a span below `parent`: a span, or the traceparent of another service's; empty begins a trace."""
        ...

    def close(self) -> None:
        """Exports what is left."""
        ...


NOBODY = Span()
_current: ContextVar[Span] = ContextVar("span", default=NOBODY)
_tracer: Tracer | None = None


def configure(service: str, settings: TracingSettings) -> None:
    """Lets spans be recorded if the settings name an endpoint."""
    global _tracer
    if _tracer:
        _tracer.close()
        _tracer = None
    if settings.exporter_otlp_endpoint:
        from common.otel import OtelTracer

        _tracer = OtelTracer(service, settings)


def current() -> Span:
    """Returns the span of what is being done."""
    return _current.get()


def serve(name: str, traceparent: str, attributes: Attributes) -> Span:
    """Returns the span of a request that came from outside, perhaps with its caller's traceparent."""
    return _tracer.span(name, "server", attributes, traceparent) if _tracer else NOBODY


def span(name: str, attributes: Attributes, kind: Kind = "internal", under: Span | None = None) -> Span:
    """Returns a span below `under` or the current one; work that belongs to no traced request is not recorded."""
    parent = under or _current.get()
    return _tracer.span(name, kind, attributes, parent) if _tracer and parent.records else NOBODY


def exemplar() -> dict[str, str] | None:
    """Returns what leads from an observation of a histogram to the current trace."""
    now = _current.get()
    return {"trace_id": now.traceparent.split("-")[1]} if now.records else None
