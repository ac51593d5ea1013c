"""Training runs over REST: bodies, events and errors. The trainer is a fake."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx
import pytest

from contracts.v1 import trainer_pb2 as pb
from search_agent.agents import AGENTS
from search_agent.errors import Failure, TrainerError
from search_agent.types import Sampling
from services.gateway.app import create_app
from services.gateway.asking import Asker, Backends
from services.gateway.training import TrainerBackend
from tests.fakes import Generator, Retriever, Searcher

RUN = pb.Run(id="demo-1", config="demo", state="running", created_at="2026-01-01T00:00:00+00:00", checkpoints=[5, 10])
TOLD = {
    "id": "demo-1", "config": "demo", "state": "running", "created_at": "2026-01-01T00:00:00+00:00", "reason": "",
    "checkpoints": [5, 10],
}  # fmt: skip


class Trainer:
    """Knows one run, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def start(self, config: str, overrides: Mapping[str, str]) -> pb.Run:
        if config == "bad":
            raise TrainerError(Failure.INVALID, "must be at least 1", "data.limit")
        self.asked.append((config, dict(overrides)))
        return RUN

    async def run(self, id: str) -> pb.Run:
        self.asked.append(id)
        if id != RUN.id:
            raise TrainerError(Failure.NOT_FOUND, f"there is no run {id!r}", "id")
        return RUN

    async def runs(self) -> Sequence[pb.Run]:
        return [RUN]

    async def watch(self, id: str) -> AsyncIterator[pb.RunEvent]:
        yield pb.RunEvent(run=RUN, step=1, metrics={"gain": 0.5})
        yield pb.RunEvent(run=RUN)
        raise TrainerError(Failure.UNAVAILABLE, "it cannot be reached")

    async def cancel(self, id: str) -> pb.Run:
        return await self.run(id)

    async def resume(self, id: str) -> pb.Run:
        return await self.run(id)

    async def promote(self, id: str, checkpoint: int) -> pb.Promotion:
        self.asked.append((id, checkpoint))
        gate = pb.Gate(passed=True, reason="better", questions=9, failed=1, candidate=0.5, current=0.25)
        gate.difference, gate.low, gate.high = 0.25, 0.125, 0.375
        return pb.Promotion(gate=gate, serving=pb.Serving(model="new@1", adapter="/a.gguf"))

    async def rollback(self) -> pb.Serving:
        return pb.Serving(model="old@1")


def client(trainer: TrainerBackend | None) -> httpx.AsyncClient:
    backends = Backends(Retriever(), Searcher([]), Generator(""), None, {}, trainer)
    app = create_app(backends, Asker(backends, Sampling(max_tokens=8)), AGENTS, 8)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


async def test_starting_a_run() -> None:
    trainer = Trainer()
    async with client(trainer) as http:
        response = await http.post("/v1/runs", json={"config": "demo", "overrides": {"seed": 2, "adapter": "a b"}})
        assert (response.status_code, response.json()) == (201, TOLD)
        assert trainer.asked == [("demo", {"seed": "2", "adapter": '"a b"'})]
        refused = await http.post("/v1/runs", json={"config": "bad"})
        assert refused.status_code == 422
        assert refused.json()["errors"] == [{"field": "data.limit", "message": "must be at least 1"}]
        assert (await http.post("/v1/runs", json={})).json()["errors"][0]["field"] == "config"


async def test_runs_are_told_changed_promoted_and_rolled_back() -> None:
    trainer = Trainer()
    async with client(trainer) as http:
        assert (await http.get("/v1/runs")).json() == [TOLD]
        assert (await http.get("/v1/runs/demo-1")).json() == TOLD
        for change in ("cancel", "resume"):
            assert (await http.post(f"/v1/runs/demo-1/{change}")).json() == TOLD
        assert (await http.post("/v1/runs/demo-1/promote", json={"checkpoint": 5})).json() == {
            "gate": {
                "passed": True, "reason": "better", "questions": 9, "failed": 1, "candidate": 0.5, "current": 0.25,
                "difference": 0.25, "interval": [0.125, 0.375],
            },
            "serving": {"model": "new@1", "adapter": "/a.gguf"},
        }  # fmt: skip
        assert trainer.asked[-1] == ("demo-1", 5)
        assert (await http.post("/v1/rollback")).json() == {"model": "old@1", "adapter": ""}


async def test_events_of_a_run() -> None:
    async with client(Trainer()) as http:
        response = await http.get("/v1/runs/demo-1/events")
        found = [block.split("\n") for block in response.text.strip().split("\n\n")]
        assert response.headers["content-type"].startswith("text/event-stream")
        names = [name.removeprefix("event: ") for name, _ in found]
        step, state, error = (json.loads(data.removeprefix("data: ")) for _, data in found)
        assert names == ["step", "state", "error"]
        assert step == {"step": 1, "metrics": {"gain": 0.5}}
        assert state == TOLD
        assert error["backend"] == "trainer"


@pytest.mark.parametrize("path", ["", "/events"])
async def test_an_unknown_run_is_404(path: str) -> None:
    async with client(Trainer()) as http:
        response = await http.get(f"/v1/runs/nobody{path}")
        assert response.status_code == 404
        assert response.json()["detail"] == "trainer: id: there is no run 'nobody'"


async def test_without_a_trainer_each_route_says_so() -> None:
    async with client(None) as http:
        for method, path in (("GET", "/v1/runs"), ("POST", "/v1/rollback"), ("GET", "/v1/runs/x/events")):
            response = await http.request(method, path)
            assert response.status_code == 404
            assert "GATEWAY_TRAINER" in response.json()["detail"]
