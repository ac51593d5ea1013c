"""Receives spans as an OTLP endpoint does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True)
class Received:
    """A span. Times are nanoseconds since 1970; `parent` is empty at the root, `links` are traceparents' last parts."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    failed: bool
    links: tuple[str, ...]
    attributes: dict[str, Any] = field(hash=False)


class Receiver(TraceServiceServicer):
    """Keeps every span that is exported to it, and the headers of the last export."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.headers: dict[str, Any] = {}

    def Export(self, request: Any, context: Any) -> Any:
        self.headers = dict(context.invocation_metadata())
        for resource in request.resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            self.spans += [_received(service, span) for scope in resource.scope_spans for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def path(self, span: Received) -> str:
        """Returns the names from the root to the span."""
        above = next((each for each in self.spans if each.id == span.parent), None)
        return f"{self.path(above)} > {span.name}" if above else span.name


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    """Gives a receiver and its endpoint."""
    receiver, server = Receiver(), grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, f"http://127.0.0.1:{port}"
    server.stop(None)


def _received(service: str, span: Any) -> Received:
    return Received(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == span.status.STATUS_CODE_ERROR,
        tuple(link.span_id.hex() for link in span.links),
        _values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
