"""Checks a Prometheus, `check_prometheus.py URL`: targets are up, rules evaluate, and dashboards have data."""

import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).parents[1] / "grafana/dashboards"
MAY_BE_EMPTY = {"Failures by boundary", "gRPC errors", "Training runs"}
NO_DATA_YET = {"training.json"}  # nothing is trained here: its queries need only be understood


def get(path: str, **query: str) -> Any:
    url = f"{sys.argv[1]}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)["data"]


def problems() -> list[str]:
    found = [
        f"target {target['labels']['service']}: {target['health']} {target['lastError']}"
        for target in get("targets")["activeTargets"]
        if target["health"] != "up"
    ]
    for group in get("rules")["groups"]:
        found += [
            f"rule {rule['name']}: {rule['health']} {rule.get('lastError', '')}"
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]
    for file in DASHBOARDS.glob("*.json"):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"].replace("$__rate_interval", "5m")
                expression = expression.replace("$method", ".*").replace("$run", ".*")
                empty = not get("query", query=expression)["result"]
                if empty and panel["title"] not in MAY_BE_EMPTY and file.name not in NO_DATA_YET:
                    found.append(f"{file.name}: {panel['title']}: no data")
    return found


deadline = time.monotonic() + 60  # a few scrapes
while left := problems():
    if time.monotonic() > deadline:
        sys.exit("\n".join(left))
    time.sleep(2)
print("up:", *sorted(target["labels"]["service"] for target in get("targets")["activeTargets"]))
