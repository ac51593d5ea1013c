"""Prometheus scrapes every service, its rules evaluate, and every query of the dashboards is answered."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.compose.conftest import Stack

DASHBOARDS = Path(__file__).parents[2] / "deploy/grafana/dashboards"
SCRAPED_WITHIN_S = 60  # a few scrapes
# Panels of what has not happened here: nothing failed, nothing was trained, and naive RAG answers nothing besides.
EMPTY = {
    *("Failures by boundary", "gRPC errors", "Training runs"),
    *("Gain over naive RAG", "Questions of the shadow", "Tokens of the shadow"),
}
EMPTY_DASHBOARDS = {"training.json"}
VARIABLES = {"$__rate_interval": "5m", "$method": ".*", "$run": ".*"}


@pytest.fixture(scope="module")
def prometheus() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{os.environ['PROMETHEUS_PUBLISH']}/api/v1/", timeout=10) as client:
        yield client


def eventually(check: Callable[[], Any]) -> None:
    """Repeats a check until its result is true. Fails if that takes longer than a few scrapes."""
    deadline = time.monotonic() + SCRAPED_WITHIN_S
    while not check():
        assert time.monotonic() < deadline
        time.sleep(1)


def queries() -> Iterator[Any]:
    for file in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"]
                for variable, value in VARIABLES.items():
                    query = query.replace(variable, value)
                has_data = file.name not in EMPTY_DASHBOARDS and panel["title"] not in EMPTY
                yield pytest.param(query, has_data, id=f"{file.name}: {panel['title']}: {target['refId']}")


def test_every_target_is_up(prometheus: httpx.Client) -> None:
    def health() -> dict[str, str]:
        targets = prometheus.get("targets").json()["data"]["activeTargets"]
        return {target["labels"]["service"]: target["health"] for target in targets}

    expected = dict.fromkeys(("gateway", "retriever", "generator", "trainer", "prometheus"), "up")
    eventually(lambda: health() == expected)


def test_every_rule_evaluates(prometheus: httpx.Client) -> None:
    def health() -> set[str]:
        groups = prometheus.get("rules").json()["data"]["groups"]
        return {rule["health"] for group in groups for rule in group["rules"]}

    eventually(lambda: health() == {"ok"})


@pytest.mark.parametrize(("query", "has_data"), list(queries()))
def test_a_panel_is_answered(prometheus: httpx.Client, query: str, has_data: bool) -> None:
    def answer() -> Any:
        response = prometheus.get("query", params={"query": query})
        assert response.status_code == 200, response.text
        return response.json()["data"]["result"]

    answer()
    if has_data:
        eventually(answer)


def test_the_alerts_go_off_when_they_should(stack: Stack) -> None:
    """`rules.test.yml` says which series raise which alert; promtool runs it."""
    promtool = ("exec", "-T", "prometheus", "promtool")
    stack.compose(*promtool, "check", "config", "/etc/prometheus/prometheus.yml")
    stack.compose(*promtool, "test", "rules", "/etc/prometheus/rules.test.yml")
