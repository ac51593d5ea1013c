"""The dashboard, the alerts and the compose file refer only to what exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from common import metrics, run_config
from common.settings import TracingSettings
from services.gateway.settings import GatewaySettings
from services.generator.settings import GeneratorSettings
from services.retriever.settings import RetrieverSettings
from services.trainer.settings import TrainerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU = yaml.safe_load((ROOT / "deploy/compose.gpu.yml").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
RULE_TESTS = yaml.safe_load((ROOT / "deploy/prometheus/rules.test.yml").read_text())["tests"]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in (ROOT / "deploy/grafana").rglob("*.json")}

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
METRICS = {
    family.name: (family.type, set(metric._labelnames))
    for metric in vars(metrics).values()
    if isinstance(metric, MetricWrapperBase)
    for family in metric.describe()
}
SERIES = {name + suffix: labels for name, (kind, labels) in METRICS.items() for suffix in SUFFIXES[kind]}
SCRAPED = {"le", "service", "job", "instance"}  # added by the scrape or the histogram


def expressions() -> Iterator[Any]:
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield pytest.param(target["expr"], id=f"{name}: {panel['title']}")
        for variable in dashboard["templating"]["list"]:
            yield pytest.param(variable["query"]["query"], id=f"{name}: ${variable['name']}")
    for rule in RULES:
        yield pytest.param(rule["expr"], id=f"rules: {rule.get('alert') or rule['record']}")


@pytest.mark.parametrize("expression", list(expressions()))
def test_expressions_name_metrics_and_labels_that_exist(expression: str) -> None:
    recorded = set(re.findall(r"\b\w+:\w+:\w+", expression))
    assert recorded <= RECORDED
    series = set(re.findall(r"(?<!:)\bsearch_agent_\w+", expression))
    assert series <= SERIES.keys()
    assert series or recorded or "up" in expression
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    labels = {label.strip() for group in grouped for label in group.split(",")}
    labels |= set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression))
    # The labels that a recorded series has are in its name.
    kept = {label for name in recorded for label in name.partition(":")[0].split("_")}
    assert labels <= SCRAPED.union(kept, *(SERIES[name] for name in series))


def test_every_metric_is_on_a_dashboard() -> None:
    shown = " ".join(param.values[0] for param in expressions())
    assert [name for name in METRICS if name not in shown] == []


def test_every_alert_is_tested_to_go_off_and_to_stay_silent() -> None:
    tested = [test for each in RULE_TESTS for test in each["alert_rule_test"]]
    assert {test["alertname"] for test in tested if test.get("exp_alerts")} == ALERTS.keys()
    assert {test["alertname"] for test in tested if not test.get("exp_alerts")} == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_runbook(alert: str) -> None:
    file, _, heading = ALERTS[alert]["annotations"]["runbook"].partition("#")
    text = (ROOT / file).read_text(encoding="utf-8")
    (name,) = (line for line in re.findall(r"(?m)^### (.+)$", text) if line.lower() == heading)
    runbook = text.partition(f"### {name}\n")[2].partition("\n#")[0]
    panels = {panel["title"] for dashboard in DASHBOARDS.values() for panel in dashboard["panels"]}
    assert runbook.strip()
    assert set(re.findall(r'"([A-Z][^"]+)"', runbook)) <= panels


def test_every_panel_says_what_it_shows() -> None:
    for dashboard in DASHBOARDS.values():
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        assert [panel["title"] for panel in panels if not panel["description"]] == []
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.parametrize("compose", [COMPOSE, GPU], ids=["cpu", "gpu"])
def test_mounted_files_and_dockerfiles_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        build = service.get("build", {})
        if "dockerfile" in build:
            assert (ROOT / build["dockerfile"]).is_file()
        for lock in build.get("args", {}).values():
            assert (ROOT / f"requirements/{lock}.txt").is_file()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            known = COMPOSE["volumes"].keys() | compose["volumes"].keys()
            assert (ROOT / source).exists() if source.startswith(".") else source in known


def test_prometheus_scrapes_services_of_the_compose_file() -> None:
    ours = [(COMPOSE, group) for job in PROMETHEUS["scrape_configs"] for group in job["static_configs"]]
    added = [
        (GPU, group)
        for file in (ROOT / "deploy/prometheus/gpu").iterdir()
        for group in yaml.safe_load(file.read_text())
    ]
    assert added
    for compose, group in ours + added:
        assert group["labels"]["service"] in compose["services"]
        for target in group["targets"]:
            assert target.split(":")[0] in {group["labels"]["service"], "127.0.0.1"}


@pytest.mark.parametrize("compose", [COMPOSE, GPU], ids=["cpu", "gpu"])
def test_a_service_is_asked_in_a_network_that_the_caller_shares(compose: dict[str, Any]) -> None:
    services = {name: COMPOSE["services"].get(name, {}) | service for name, service in compose["services"].items()}
    networks = {name: set(_extended(service).get("networks", ())) for name, service in services.items()}
    asked = {
        (name, host)
        for name, service in services.items()
        for value in service.get("environment", {}).values()
        for host in re.findall(r"([a-z]+):\d{4,5}", str(value))
        if host in services
    }
    assert asked
    assert [(caller, host) for caller, host in sorted(asked) if not networks[caller] & networks[host]] == []


def _extended(service: dict[str, Any]) -> dict[str, Any]:
    """Returns a service with what it takes from the one that it extends."""
    return COMPOSE["services"].get(service.get("extends", {}).get("service"), {}) | service


def test_exemplars_lead_to_the_service_that_keeps_traces() -> None:
    sources = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    by_uid = {source["uid"]: source for source in sources["datasources"]}
    (where,) = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert where["name"] == "trace_id"  # as in common/tracing.py
    (host,) = re.findall(r"http://(\w+):16686", by_uid[where["datasourceUid"]]["url"])
    kept = COMPOSE["services"][host]
    assert set(kept["networks"]) & set(COMPOSE["services"]["grafana"]["networks"])
    sending = [
        each for each in COMPOSE["services"].values() if "OTEL_EXPORTER_OTLP_ENDPOINT" in each.get("environment", {})
    ]
    assert len(sending) == 4
    assert all(set(kept["networks"]) & set(each["networks"]) for each in sending)


def test_a_backup_has_every_volume_but_those_of_metrics() -> None:
    (saved,) = re.findall(r"(?m)^volumes=\((.+)\)$", (ROOT / "deploy/backup.sh").read_text(encoding="utf-8"))
    assert {*saved.split(), "prometheus-data", "grafana-data"} == COMPOSE["volumes"].keys()


def test_only_the_front_doors_are_published_and_to_this_machine_alone() -> None:
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert ports.keys() == {"gateway", "prometheus", "grafana", "jaeger"}
    assert all("_PUBLISH:-127.0.0.1:" in port for published in ports.values() for port in published)


@pytest.mark.parametrize("compose", [COMPOSE, GPU], ids=["cpu", "gpu"])
def test_compose_sets_what_services_read(compose: dict[str, Any]) -> None:
    settings = [GatewaySettings, GeneratorSettings, RetrieverSettings, TrainerSettings, TracingSettings]
    known = {f"{each.model_config['env_prefix']}{name}".upper() for each in settings for name in each.model_fields}
    prefixes = tuple(str(each.model_config["env_prefix"]) for each in settings)
    given = {name for service in compose["services"].values() for name in service.get("environment", {})}
    assert {name for name in given if name.startswith(prefixes)} - known == set()


def test_what_only_gpus_add_is_held_as_every_service_is() -> None:
    held = COMPOSE["services"]["trainer"]
    rules = ("restart", "init", "security_opt", "logging", "read_only", "tmpfs", "cap_drop")
    for name in GPU["services"].keys() - COMPOSE["services"].keys():
        added = _extended(GPU["services"][name])
        assert {rule: added.get(rule) for rule in rules} == {rule: held[rule] for rule in rules}
        assert "ports" not in added


def test_the_trainer_and_the_cluster_see_the_same_runs() -> None:
    given = GPU["services"]["trainer"]["environment"]
    (cluster,) = re.findall(r"http://(\w+):8265", given["TRAINER_RAY_ADDRESS"])
    node = GPU["services"][cluster]
    assert set(COMPOSE["services"]["trainer"]["volumes"]) < set(node["volumes"])
    assert f"WORKDIR {given['TRAINER_RAY_FOLDER']}" in (ROOT / node["build"]["dockerfile"]).read_text().splitlines()


def test_the_documented_run_is_of_services_and_files_that_are_there() -> None:
    documented = (ROOT / "deploy/README.md").read_text().partition("train start ")[2].partition("```")[0]
    run = run_config.load(documented.split()[0], dict(re.findall(r"--set (\w+)=(\S+)", documented)))
    ports = {"retriever": RetrieverSettings, "generator": GeneratorSettings}
    for name, settings in ports.items():
        assert getattr(run, name) == f"{name}:{settings.model_fields['port'].default}"
    image = (ROOT / "deploy/docker/trainer-gpu.Dockerfile").read_text()
    assert run.base_model in image
    kept, _, adapter = run.adapter.rpartition("/")
    assert f"COPY data/demo/adapters {kept}\n" in image
    assert (ROOT / "data/demo/adapters" / adapter).is_dir()


@pytest.mark.parametrize("file", sorted((ROOT / "deploy").glob("*.env")), ids=lambda file: file.name)
def test_layouts_set_what_compose_reads(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    composed = "".join((ROOT / name).read_text() for name in ("docker-compose.yml", "deploy/compose.gpu.yml"))
    assert {line.partition("=")[0] for line in lines} - set(re.findall(r"\$\{(\w+)", composed)) == set()
