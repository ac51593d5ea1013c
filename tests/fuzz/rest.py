"""Fuzzes a gateway by its OpenAPI, with schemathesis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.fuzz.served import Stack

ROOT = Path(__file__).parents[2]
# A request may be wrong in ways that its schema cannot tell: by the name of an index, a method or a parameter.
NO_CHECK = "positive_data_acceptance"
CONFIG = """
hooks = "tests.fuzz.hooks"
[[operations]]
include-path = "/v1/indexes/{{name}}/changes/{{id}}"
parameters = {{ name = "{index}", id = 1 }}
[[operations]]
include-path-regex = "^/v1/indexes/"
parameters = {{ name = "{index}" }}
[[operations]]
include-path-regex = "^/v1/runs/"
parameters = {{ id = {run} }}
"""


def fuzz(stack: Stack, folder: Path, examples: int, timeout_s: float, seed: int = 1) -> tuple[int, str]:
    """Sends up to `examples` requests a route and more of its coverage phase. Returns schemathesis' status and report.

    Some are about a run and an index that exist.
    """
    index = f"by-rest-{seed}"
    with httpx.Client(base_url=stack.gateway, trust_env=False, timeout=20) as http:
        run = http.post("/v1/runs", json={"config": "smollm2-demo"}).raise_for_status().json()["id"]
        http.post("/v1/indexes", json={"name": index, "encoder": ""}).raise_for_status()
        passages = [{"id": f"p{number}", "text": f"common word{number}"} for number in range(3)]
        http.post(f"/v1/indexes/{index}/passages", params={"wait": 20}, json=passages).raise_for_status()
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.format(run=json.dumps(run), index=index))
    flags = ["--phases", "examples,coverage,fuzzing", "--checks", "all", "--exclude-checks", NO_CHECK]
    flags += ["--max-examples", str(examples), "--continue-on-failure", "--seed", str(seed)]
    flags += ["--request-timeout", "20", "--no-color", "--generation-database", "none"]
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "--config-file", str(config), "run", f"{stack.gateway}/openapi.json", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # for the hooks
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s)
    return done.returncode, done.stdout + done.stderr


def answered(stack: Stack) -> dict[str, int]:
    """Returns the number of responses by status, as the gateway counted them."""
    counts: dict[str, int] = {}
    for line in httpx.get(f"{stack.gateway}/metrics", trust_env=False).text.splitlines():
        if line.startswith("search_agent_http_seconds_count"):
            status = line.partition('status="')[2].partition('"')[0]
            counts[status] = counts.get(status, 0) + int(float(line.rsplit(" ", 1)[1]))
    return counts
