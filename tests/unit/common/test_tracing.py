"""Tests of tracing while nothing is traced, and of its settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common import context, tracing
from common.settings import TracingSettings, load

_LOADED = """
import sys
from common import tracing
from common.settings import TracingSettings
import services.gateway.wiring, services.generator.service, services.retriever.service
tracing.configure("gateway", TracingSettings(exporter_otlp_endpoint=sys.argv[1]))
print("opentelemetry.exporter" in sys.modules)
"""


@pytest.mark.parametrize(("endpoint", "loaded"), [("", "False"), ("http://127.0.0.1:1", "True")])
def test_the_exporter_is_loaded_for_an_endpoint_only(endpoint: str, loaded: str) -> None:
    root = Path(__file__).parents[3]
    asked = subprocess.run([sys.executable, "-c", _LOADED, endpoint], cwd=root, capture_output=True, text=True)
    assert asked.stdout.strip() == loaded, asked.stderr


def test_work_of_no_traced_request_is_not_recorded() -> None:
    with tracing.span("work", {}) as span:
        assert not span.records
        assert tracing.exemplar() is None


def test_an_outgoing_call_carries_its_own_span() -> None:
    own, calls = (f"00-{'ab' * 16}-{digit * 16}-01" for digit in "12")
    context.begin({context.REQUEST_ID: "mine"}, own)
    assert context.trace_id() == "ab" * 16
    assert dict(context.metadata()) == {"request-id": "mine", "traceparent": own}
    assert dict(context.metadata(calls)) == {"request-id": "mine", "traceparent": calls}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "jaeger:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://jaeger:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "10"),
    ],
)
def test_a_wrong_variable_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load(TracingSettings, [])
    assert capsys.readouterr().err.startswith(f"{name}: ")
