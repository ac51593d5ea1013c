"""A backup brings back what an accident took, and a stack with an empty Redis runs on."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from search_agent_client import Client, GatewayProblem
from tests.compose.conftest import Stack, run

BACKUP = str(Path(__file__).parents[2] / "deploy/backup.sh")
URL = f"http://{os.environ['GATEWAY_PUBLISH']}"
ASKED = ("What is the Rhine?", "naive_rag")
MAKE_RUN = """
import os, pathlib
from common import run_config
from services.trainer.runs import Runs
print(Runs(pathlib.Path(os.environ["TRAINER_RUNS"])).create(run_config.load("smollm2-demo", {})).id)
"""


def python(stack: Stack, service: str, code: str) -> str:
    return stack.compose("exec", "-T", service, "python3", "-c", code).strip()


def test_a_backup_brings_back_keys_results_runs_and_indexes(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEYS", "redis")
    stack.compose("up", "--detach", "--no-deps", "--wait", "gateway")
    make_key = ("exec", "-T", "gateway", "python3", "-m", "cli.keys", "create", "me", "--scope", "admin")
    key = stack.compose(*make_key).strip()
    run_id = python(stack, "trainer", MAKE_RUN)
    with Client(URL, key) as client:
        answer = client.answer(*ASKED, top_k=1).answer
    run(BACKUP, "create", str(tmp_path))

    stack.compose("exec", "-T", "redis", "redis-cli", "flushall")
    python(stack, "trainer", "import os, shutil; [shutil.rmtree(e) for e in os.scandir(os.environ['TRAINER_RUNS'])]")
    assert httpx.get(f"{URL}/readyz").status_code == 200
    with Client(URL, key) as client, pytest.raises(GatewayProblem) as refused:
        client.methods()
    assert refused.value.status == 401
    with Client(URL, stack.compose(*make_key).strip()) as client:
        assert not client.answer(*ASKED, top_k=1).cached
        assert run_id not in {found.id for found in client.runs()}

    run(BACKUP, "restore", str(tmp_path))
    with Client(URL, key) as client:
        found = client.answer(*ASKED, top_k=1)
        assert (found.answer, found.cached) == (answer, True)
        assert run_id in {found.id for found in client.runs()}
        assert [index.name for index in client.indexes()] == ["demo"]
    monkeypatch.setenv("GATEWAY_KEYS", "")
    stack.compose("up", "--detach", "--no-deps", "--wait", "gateway")
