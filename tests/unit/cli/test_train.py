"""`search-agent train` against a gateway whose answers a test writes."""

from __future__ import annotations

import pytest

from cli.main import main
from tests.unit.cli.scripted import Gateway

RUN = {"id": "demo-1", "state": "running", "created_at": "t0", "changed_at": "t1", "reason": ""} | {
    "config": "name: demo\n",
    "checkpoints": [20, 40],
}
GATE = {"outcome": "passed", "reason": "+8.0 points", "asked": 50, "compared": 49, "failed": 1, "candidate": 0.38} | {
    "current": 0.3, "difference": 0.08, "low": 0.02, "high": 0.14, "margin": 0.01, "wins": 6, "losses": 2, "p": 0.29,
}  # fmt: skip
PROMOTED = {"promoted": True, "searcher": "searcher", "model": "m@2", "before": "m@1", "run": "demo-1"} | {
    "checkpoint": 40, "at": "t2", "gate": GATE,
}  # fmt: skip


def train(gateway: Gateway, *arguments: str) -> int:
    return main(["train", *arguments, "--url", gateway.url])


def test_start_sends_a_name_with_its_overrides(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.says["POST /v1/runs"] = (201, RUN)
    assert train(gateway, "start", "smollm2-demo", "--set", "seed=2", "--set", "data.keep=all") == 0
    assert gateway.asked[-1][1] == {"config": "smollm2-demo", "overrides": {"seed": 2, "data.keep": "all"}}
    assert capsys.readouterr().out.split() == ["demo-1", "running", "since", "t1"]


def test_what_cannot_be_sent_is_told(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(gateway, "start", "x", "--set", "seed") == 1
    assert "must be FIELD=VALUE" in capsys.readouterr().err
    assert gateway.asked == []


def test_list_and_show(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.says["GET /v1/runs"] = []
    assert train(gateway, "list") == 0
    assert capsys.readouterr().out == "no runs\n"
    gateway.says["GET /v1/runs"] = [RUN, RUN | {"id": "demo-0", "state": "failed", "reason": "it died"}]
    assert train(gateway, "list") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("demo-1")
    assert second.endswith("it died")
    gateway.says["GET /v1/runs/demo-1"] = RUN
    assert train(gateway, "show", "demo-1") == 0
    assert capsys.readouterr().out.endswith("checkpoints: 20 40\nname: demo\n")


@pytest.mark.parametrize(("state", "status"), [("finished", 0), ("failed", 1)])
def test_watch_prints_a_line_for_each_step(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], state: str, status: int
) -> None:
    step = {"step": 7, "metrics": {"reward/gain": 0.125, "seconds/step": 9.26, "gpu/allocated_gb": 3}}
    gateway.says["GET /v1/runs/demo-1/events"] = [("run", RUN), ("step", step), ("run", RUN | {"state": state})]
    assert train(gateway, "watch", "demo-1") == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["step", "7", "gain", "+0.125", "9.3", "s"]
    assert state in lines[2]


def test_cancel_and_resume(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("cancel", "resume"):
        gateway.says[f"POST /v1/runs/demo-1/{command}"] = RUN
        assert train(gateway, command, "demo-1") == 0
        assert "demo-1" in capsys.readouterr().out


def test_promote_tells_the_gates_figures(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    progress = ("progress", {"done": 1, "failed": 0, "total": 100})
    gateway.says["POST /v1/runs/demo-1/promote"] = [progress, ("done", PROMOTED)]
    assert train(gateway, "promote", "demo-1", "--checkpoint", "40") == 0
    assert gateway.asked[-1][1] == {"searcher": "", "stream": True, "checkpoint": 40}
    out = capsys.readouterr().out
    assert "candidate 38.0%, current 30.0% on 49 of 50 questions; 6 won, 2 lost" in out
    assert "searcher serves checkpoint 40 of demo-1: m@2 (before: m@1)" in out


def test_what_is_not_promoted_exits_with_1(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    refused = PROMOTED | {"promoted": False, "model": "m@1", "gate": GATE | {"outcome": "not_better"}}
    gateway.says["POST /v1/runs/demo-1/promote"] = [("done", refused)]
    assert train(gateway, "promote", "demo-1") == 1
    assert "gate: not better" in (out := capsys.readouterr().out)
    assert "searcher stays as it was: m@1" in out
    gateway.says["POST /v1/runs/demo-1/promote"] = [("error", {"detail": "trainer: m@1 is served already"})]
    assert train(gateway, "promote", "demo-1") == 1
    assert "is served already" in capsys.readouterr().err


def test_rollback(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.says["POST /v1/rollback"] = {"searcher": "searcher", "model": "m@1", "before": "m@2", "at": "t3"}
    assert train(gateway, "rollback") == 0
    assert capsys.readouterr().out == "searcher serves m@1 again (before: m@2)\n"


def test_a_problem_is_told_in_its_words(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.says["GET /v1/runs/nope"] = (404, {"detail": "trainer: no run is called 'nope'"})
    assert train(gateway, "show", "nope") == 1
    assert capsys.readouterr().err == "search-agent: trainer: no run is called 'nope'\n"
