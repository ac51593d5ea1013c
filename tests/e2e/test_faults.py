"""Services that stop and come back under a gateway that stays up."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from common.backends import GrpcPolicy
from deploy.local import Stack
from tests.lora import write_peft
from tests.waiting import LIMIT_S, until

QUESTION = {"question": "Who was born in Warsaw?", "top_k": 1}


def ask(stack: Stack, method: str, **more: object) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/answer", json={**QUESTION, "method": method, **more}, timeout=LIMIT_S)


def get(stack: Stack, path: str) -> httpx.Response:
    return httpx.get(f"{stack.url}{path}", timeout=LIMIT_S)


def kill(stack: Stack, name: str) -> None:
    process = stack.processes[name]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until_ok(stack: Stack) -> None:
    """Waits for every backend: one process may serve two, each with a channel and a breaker of its own."""

    def ready() -> bool:
        states = stack.readiness()
        return bool(states) and all(state == "ok" for state in states.values())

    until(ready)


def refused(stack: Stack, method: str, backend: str) -> None:
    """Asserts that the method's questions and the gateway's readiness name the backend that is down."""
    response = ask(stack, method, question="Who is asked?")
    assert response.status_code == 503
    assert response.json()["backend"] == backend
    assert response.headers["retry-after"]
    ready = get(stack, "/readyz")
    assert ready.status_code == 503
    assert ready.json()["backends"][backend] != "ok"
    assert get(stack, "/healthz").status_code == 200


def test_a_retriever_that_is_down_is_named_and_comes_back(stack: Stack) -> None:
    kill(stack, "retriever")
    refused(stack, "s3", "retriever")
    stack.start("retriever")
    until_ok(stack)
    assert ask(stack, "s3", max_turns=1).status_code == 200


async def test_a_generator_that_is_down_is_named_and_comes_back_with_what_was_promoted(
    stack: Stack, tmp_path: Path
) -> None:
    write_peft(tmp_path / "lora")
    searcher = GrpcPolicy(stack.model("searcher"), timeout_s=LIMIT_S)
    base = await searcher.info()
    promoted = await searcher.load("", str(tmp_path / "lora"))
    assert promoted.model != base.model
    kill(stack, "generator")
    refused(stack, "s3", "searcher")
    refused(stack, "naive_rag", "generator")
    stack.start("generator")
    until_ok(stack)
    assert await searcher.info() == promoted
    assert ask(stack, "s3", max_turns=1).json()["models"][0] == promoted.model
    assert await searcher.load(base.path, base.adapter) == base
    await searcher.close()


def test_without_redis_questions_are_answered_uncached(stack: Stack) -> None:
    kill(stack, "redis")
    response = ask(stack, "naive_rag")
    assert response.status_code == 200
    assert response.json()["cached"] is False
    ready = get(stack, "/readyz")
    assert ready.status_code == 200
    assert "runs uncached" in ready.json()["backends"]["cache"]
    assert 'cache_lookups_total{result="unavailable"}' in get(stack, "/metrics").text
    stack.start("redis")
    until_ok(stack)
    ask(stack, "naive_rag")
    assert ask(stack, "naive_rag").json()["cached"] is True


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
