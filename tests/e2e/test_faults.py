"""Services that stop and come back under a gateway that stays up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from common.backends import GrpcPolicy
from deploy.local import Stack
from tests.lora import write_peft

QUESTION = {"question": "Who was born in Warsaw?", "max_turns": 1}


def ask(stack: Stack, **more: object) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/answer", json=QUESTION | more, timeout=120)


def kill(stack: Stack, name: str) -> None:
    process = stack.processes[name]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until_ok(stack: Stack) -> None:
    """Waits for every backend: one process may serve two, each with a channel and a breaker of its own."""
    for _ in range(150):
        states = stack.readiness()
        if states and all(state == "ok" for state in states.values()):
            return
        time.sleep(0.2)
    pytest.fail(f"the stack did not come back: {stack.readiness()}")


@pytest.mark.parametrize(
    ("service", "method", "backend"),
    [("retriever", "s3", "retriever"), ("generator", "s3", "searcher"), ("generator", "naive_rag", "generator")],
)
def test_a_backend_that_is_down_is_named_and_comes_back(stack: Stack, service: str, method: str, backend: str) -> None:
    kill(stack, service)
    response = httpx.post(f"{stack.url}/v1/answer", json={"question": "Who is asked?", "method": method}, timeout=120)
    assert response.status_code == 503
    assert response.json()["backend"] == backend
    assert response.headers["retry-after"]
    ready = httpx.get(f"{stack.url}/readyz")
    assert ready.status_code == 503
    assert ready.json()["backends"][backend] != "ok"
    assert httpx.get(f"{stack.url}/healthz").status_code == 200
    stack.start(service)
    until_ok(stack)
    assert ask(stack).status_code == 200


async def test_a_restarted_searcher_serves_what_was_promoted(stack: Stack, tmp_path: Path) -> None:
    write_peft(tmp_path / "lora")
    searcher = GrpcPolicy(stack.model("searcher"), timeout_s=60)
    base = await searcher.info()
    promoted = await searcher.load("", str(tmp_path / "lora"))
    assert promoted.model != base.model
    kill(stack, "generator")
    stack.start("generator")
    until_ok(stack)
    assert await searcher.info() == promoted
    assert ask(stack).json()["models"][0] == promoted.model
    assert await searcher.load(base.path, base.adapter) == base
    await searcher.close()


def test_without_redis_questions_are_answered_uncached(stack: Stack) -> None:
    kill(stack, "redis")
    response = ask(stack, method="naive_rag", top_k=1, max_turns=None)
    assert response.status_code == 200
    assert response.json()["cached"] is False
    ready = httpx.get(f"{stack.url}/readyz")
    assert ready.status_code == 200
    assert "runs uncached" in ready.json()["backends"]["cache"]
    assert 'cache_lookups_total{result="unavailable"}' in httpx.get(f"{stack.url}/metrics").text
    stack.start("redis")
    until_ok(stack)
    ask(stack, method="naive_rag", top_k=1, max_turns=None)
    assert ask(stack, method="naive_rag", top_k=1, max_turns=None).json()["cached"] is True


def test_a_port_in_use_is_said(stack: Stack) -> None:
    port = str(stack.ports["gateway"])
    result = subprocess.run(
        [sys.executable, "-m", "deploy.local", "demo", "--port", port], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert f"port {port} is in use" in result.stderr


@pytest.mark.parametrize("service", ["retriever", "generator", "gateway", "trainer"])
def test_help_and_missing_settings(service: str) -> None:
    command = [sys.executable, "-m", f"services.{service}"]
    assert "usage:" in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    if service != "generator":  # which has a default for everything
        env = {key: value for key, value in os.environ.items() if not key.startswith(service.upper())}
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert result.returncode == 2
        assert f"{service.upper()}_" in result.stderr
        assert "required" in result.stderr
        assert "Traceback" not in result.stderr
