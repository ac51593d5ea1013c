"""Spans by OpenTelemetry, exported by OTLP over gRPC."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer as Maker

from common import tracing
from common.settings import TracingSettings
from common.tracing import Attributes, Kind

log = structlog.get_logger()
_EXPORT_TIMEOUT_S = 5.0  # also the longest that a service waits at its end for an endpoint that does not answer
_KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "server": SpanKind.SERVER}


class OtelTracer:
    """Makes spans of one service. They are sent in batches, by a thread of their own."""

    def __init__(self, service: str, settings: TracingSettings) -> None:
        headers = settings.exporter_otlp_headers
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # its lines hold the endpoint's address
        resource = Resource.create(
            {"service.name": settings.service_name or service, "service.namespace": "search-agent"}
        )
        exporter = OTLPSpanExporter(
            settings.exporter_otlp_endpoint,
            headers=headers.get_secret_value() if headers else None,
            timeout=_EXPORT_TIMEOUT_S,
        )
        self._provider = TracerProvider(_sampler(settings), resource)
        self._provider.add_span_processor(BatchSpanProcessor(_Watched(exporter)))
        self._maker = self._provider.get_tracer("search_agent")
        self._reveals = settings.instrumentation_genai_capture_message_content

    def span(self, name: str, kind: Kind, attributes: Attributes, parent: str | tracing.Span) -> tracing.Span:
        above = parent.otel if isinstance(parent, _Span) else _remote(str(parent))
        made = self._maker.start_span(name, set_span_in_context(above), _KINDS[kind], _given(attributes))
        return _Span(made, self._maker, self._reveals) if made.is_recording() else _Unsampled(made)

    def close(self) -> None:
        self._provider.shutdown()


class _Unsampled(tracing.Span):
    """A span that the sampler left out. Other services learn that from its traceparent."""

    def __init__(self, otel: OtelSpan) -> None:
        self.traceparent = _traceparent(otel)


class _Span(tracing.Recorded):
    def __init__(self, otel: OtelSpan, maker: Maker, reveals: bool) -> None:
        self.otel, self.reveals, self._maker = otel, reveals, maker
        self.traceparent = _traceparent(otel)

    def set(self, attributes: Attributes) -> None:
        self.otel.set_attributes(_given(attributes))

    def rename(self, name: str) -> None:
        self.otel.update_name(name)

    def link(self, traceparent: str) -> None:
        if traceparent:
            self.otel.add_link(_remote(traceparent).get_span_context())

    def stages(self, **seconds: float) -> None:
        at = time.time_ns() - int(sum(seconds.values()) * 1e9)
        for name, took in seconds.items():
            stage = self._maker.start_span(name, set_span_in_context(self.otel), start_time=at)
            at += int(took * 1e9)
            stage.end(at)

    def fail(self, kind: str) -> None:
        self.failed = True
        self.otel.set_attribute("error.type", kind)
        self.otel.set_status(StatusCode.ERROR)

    def end(self) -> None:
        self.otel.end()


class _Watched(SpanExporter):
    """Logs once per outage that the endpoint does not take spans."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter, self._failing = exporter, False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            log.warning("the OTLP endpoint does not take traces; they are lost until it does")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _sampler(settings: TracingSettings) -> Sampler:
    share = TraceIdRatioBased(settings.traces_sampler_arg)
    known: dict[str, Sampler] = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF, "traceidratio": share}
    root = known[settings.traces_sampler.removeprefix("parentbased_")]
    return ParentBased(root) if settings.traces_sampler.startswith("parentbased_") else root


def _traceparent(otel: OtelSpan) -> str:
    context = otel.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _remote(traceparent: str) -> OtelSpan:
    """Returns another service's span, or one that is no parent for an empty or malformed traceparent."""
    try:
        _, trace, span, flags = traceparent.split("-")
        return NonRecordingSpan(SpanContext(int(trace, 16), int(span, 16), True, TraceFlags(int(flags, 16))))
    except ValueError:
        return INVALID_SPAN


def _given(attributes: Attributes) -> dict[str, str | bool | int | float | Sequence[str]]:
    return {name: value for name, value in attributes.items() if value is not None}
