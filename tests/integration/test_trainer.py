"""v1.Trainer over real gRPC, on a cluster and searchers that are fakes; and the gateway's routes over it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from common import client, run_config
from common.backends import GrpcTrainer
from common.training import RunState
from contracts.v1 import trainer_pb2 as pb
from contracts.v1.trainer_pb2_grpc import TrainerStub
from search_agent.errors import Failure, TrainerError
from search_agent.types import Sampling
from services.gateway.app import create_app
from services.gateway.asker import Asker
from services.gateway.capacity import Capacity
from services.gateway.methods import Methods
from services.gateway.player import Backends, Player
from services.trainer.admission import Admission
from services.trainer.jobs import Job, Jobs, JobState
from services.trainer.monitor import Monitor
from services.trainer.service import TrainerService
from tests.fakes import Generator, Retriever, Searcher
from tests.integration.served import Served
from tests.trainer_fakes import FakeJobs, Gates
from tests.waiting import LIMIT_S


class World:
    """A trainer over gRPC with its fakes in reach, and a gateway that calls it."""

    def __init__(self, folder: Path, jobs: Jobs | None) -> None:
        self.folder, self.gates, self.cluster = folder, Gates(folder / "runs"), jobs or FakeJobs()
        self.runs = self.gates.runs
        self.monitor = Monitor(self.runs, jobs, 0.01)
        admission = Admission(folder, folder / "configs")
        self.served = Served(folder, TrainerService(self.runs, self.monitor, self.gates.promoter(), admission))

    async def __aenter__(self) -> "World":
        self.stub: TrainerStub = await self.served.__aenter__()
        backends = Backends(Retriever(), Searcher([]), Generator("a"), None, {})
        self._trainer = GrpcTrainer(f"127.0.0.1:{self.served.port}", LIMIT_S)
        player = Player(backends, Sampling(max_tokens=8))
        self.app = create_app(backends, Asker(player, Methods(backends), Capacity(8)), self._trainer)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")
        self._following = asyncio.create_task(self.monitor.follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._following.cancel()
        await self.http.aclose()
        await self._trainer.close()
        await self.served.__aexit__()

    @property
    def jobs(self) -> dict[str, Job]:
        assert isinstance(self.cluster, FakeJobs)
        return self.cluster.jobs

    def configure(self, name: str, **overrides: object) -> None:
        """Puts a configuration on the trainer's disk."""
        path = self.folder / "configs" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(run_config.dump(run_config.load("smollm2-demo", {"name": name, **overrides})))

    def held_out(self) -> str:
        path = self.folder / "held-out.jsonl"
        lines = [{"id": f"q{n}", "question": f"question {n}?", "golden_answers": ["answer"]} for n in range(8)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    async def call(self, name: str, request: Any) -> Any:
        return await client.call(getattr(self.stub, name), request, LIMIT_S, TrainerError)

    async def start(self, config: str = "smollm2-demo", **overrides: object) -> pb.Run:
        values = {field.replace("__", "."): json.dumps(value) for field, value in overrides.items()}
        return await self.call("StartRun", pb.StartRunRequest(config=config, overrides=values))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path, FakeJobs()) as world:
        yield world


def events(text: str) -> list[tuple[str, Any]]:
    blocks = (block.split("\n") for block in text.strip().split("\n\n"))
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def test_a_run_from_start_to_end(world: World) -> None:
    run = await world.start(seed=7, data__keep=0.5)
    assert run.state == pb.QUEUED
    assert run_config.read(run.config).seed == 7
    assert run_config.read(run.config).data.keep == 0.5
    (listed,) = (await world.call("ListRuns", pb.ListRunsRequest())).runs
    assert (listed.id, listed.config) == (run.id, "")
    (world.runs.path(run.id) / "metrics.jsonl").write_text('{"step": 1, "data": {"search/gain": 0.5}}\n')
    world.jobs[f"{run.id}-1"] = Job(JobState.RUNNING)
    states, steps = [], []
    async for event in world.stub.WatchRun(pb.RunRequest(id=run.id)):
        if event.WhichOneof("event") == "step":
            steps.append((event.step.step, dict(event.step.metrics)))
        else:
            states.append(event.run.state)
            if event.run.state == pb.RUNNING:
                (world.runs.path(run.id) / "reason.txt").write_text("too many samples failed\n")
                world.jobs[f"{run.id}-1"] = Job(JobState.FAILED, 3)
    assert states[-2:] == [pb.RUNNING, pb.STOPPED]
    assert steps == [(1, {"reward/gain": 0.5})]
    stopped = await world.call("GetRun", pb.RunRequest(id=run.id))
    assert (stopped.state, stopped.reason) == (pb.STOPPED, "too many samples failed")
    resumed = await world.call("ResumeRun", pb.RunRequest(id=run.id))
    assert (resumed.state, resumed.reason) == (pb.QUEUED, "")
    await world.call("CancelRun", pb.RunRequest(id=run.id))
    assert world.runs.get(run.id).state is RunState.CANCELLED


async def test_a_configuration_stands_on_the_trainers_disk(world: World) -> None:
    world.configure("mine")
    run = await world.start("mine", seed=9)
    assert run.id.startswith("mine-")
    assert run_config.read(run.config).seed == 9


@pytest.mark.parametrize(
    ("request_", "field", "message"),
    [
        (pb.StartRunRequest(config="unheard-of"), "config", "no configuration 'unheard-of'"),
        (pb.StartRunRequest(config="/etc/passwd"), "config", "no configuration"),
        (pb.StartRunRequest(config="../configs/smollm2-demo.yaml"), "config", "no configuration"),
        (pb.StartRunRequest(config="name: mine\nseed: 1"), "config", "no configuration"),
        (pb.StartRunRequest(), "config", "no configuration"),
        (pb.StartRunRequest(config="smollm2-demo", overrides={"seed": "x"}), "config.seed", "is not JSON"),
        (pb.StartRunRequest(config="smollm2-demo", overrides={"data.keep": "7"}), "config.data.keep", "must be"),
        (pb.StartRunRequest(config="smollm2-demo", overrides={"colour": "7"}), "config.colour", "may override"),
        (pb.StartRunRequest(config="smollm2-demo", overrides={"seed": "[" * 5000}), "config.seed", "is not JSON"),
        (pb.StartRunRequest(config="smollm2-demo", overrides={"%\x1fé": "7"}), "config.%\x1fé", "may override"),
        (pb.StartRunRequest(config="x" * 50_000), "config", "no configuration"),
    ],
)
async def test_a_bad_configuration_names_its_field(
    world: World, request_: pb.StartRunRequest, field: str, message: str
) -> None:
    with pytest.raises(TrainerError, match=message) as caught:
        await world.call("StartRun", request_)
    assert (caught.value.failure, caught.value.field) == (Failure.INVALID, field)
    assert world.runs.all() == []


async def test_a_machine_without_a_cluster_says_so(tmp_path: Path) -> None:
    async with World(tmp_path, None) as world:
        with pytest.raises(TrainerError, match="TRAINER_RAY_ADDRESS") as caught:
            await world.start()
        assert caught.value.failure is Failure.UNSUPPORTED
        assert (await world.call("ListRuns", pb.ListRunsRequest())).runs == []
        response = await world.http.post("/v1/runs", json={"config": "smollm2-demo"})
        assert response.status_code == 422
        assert "TRAINER_RAY_ADDRESS" in response.json()["detail"]


async def test_runs_over_rest(world: World) -> None:
    started = await world.http.post("/v1/runs", json={"config": "smollm2-demo", "overrides": {"seed": 7}})
    assert started.status_code == 201
    run = started.json()
    assert run["state"] == "queued"
    assert "seed: 7" in run["config"]
    assert [listed["id"] for listed in (await world.http.get("/v1/runs")).json()] == [run["id"]]
    assert (await world.http.get(f"/v1/runs/{run['id']}")).json() == run
    (world.runs.path(run["id"]) / "metrics.jsonl").write_text('{"step": 1, "data": {"search/gain": 0.5}}\n')
    cancelled = (await world.http.post(f"/v1/runs/{run['id']}/cancel")).json()
    assert cancelled["state"] == "cancelled"
    told = events((await world.http.get(f"/v1/runs/{run['id']}/events")).text)
    assert told == [("run", cancelled), ("step", {"step": 1, "metrics": {"reward/gain": 0.5}})]
    assert (await world.http.post(f"/v1/runs/{run['id']}/resume")).json()["state"] == "queued"


async def test_errors_over_rest(world: World) -> None:
    for response in (
        await world.http.get("/v1/runs/missing"),
        await world.http.get("/v1/runs/missing/events"),
        await world.http.post("/v1/runs/missing/cancel"),
        await world.http.post("/v1/runs/missing/promote", json={}),
        await world.http.post("/v1/runs/missing/promote", json={"stream": True}),
    ):
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert "no run is called 'missing'" in response.json()["detail"]
    bad = await world.http.post("/v1/runs", json={"config": "smollm2-demo", "overrides": {"gate.margin": 0}})
    assert bad.status_code == 422
    assert [error["field"] for error in bad.json()["errors"]] == ["config.gate.margin"]
    skipping = await world.http.post("/v1/runs/missing/promote", json={"skip_gate": True})
    assert skipping.status_code == 422
    assert [error["field"] for error in skipping.json()["errors"]] == ["skip_gate"]


async def test_a_gateway_without_a_trainer() -> None:
    backends = Backends(Retriever(), Searcher([]), Generator("a"), None, {})
    app = create_app(backends, Asker(Player(backends, Sampling(max_tokens=8)), Methods(backends), Capacity(8)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        for response in (await http.get("/v1/runs"), await http.get("/v1/runs/x/events")):
            assert response.status_code == 404
            assert "GATEWAY_TRAINER" in response.json()["detail"]


async def test_promotion_and_rollback(world: World) -> None:
    world.configure("mine", **{"gate.questions": world.held_out(), "gate.part": [0, 1]})
    run = await world.start("mine")
    world.gates.save(run.id, 20)
    seen = [event async for event in world.stub.Promote(pb.PromoteRequest(run=run.id))]
    assert seen[-2].progress == pb.GateProgress(done=16, total=16)
    done = seen[-1].promotion
    assert (done.model, done.before, done.checkpoint) == ("good", "base", 20)
    assert done.gate.outcome == pb.Gate.PASSED
    assert (done.gate.asked, done.gate.compared, done.gate.wins, done.gate.low) == (8, 8, 8, 1.0)
    back = await world.call("Rollback", pb.RollbackRequest())
    assert (back.model, back.before, back.HasField("gate")) == ("base", "good", False)


async def test_promotion_over_rest(world: World) -> None:
    world.configure("mine", **{"gate.questions": world.held_out(), "gate.part": [0, 1]})
    run = await world.start("mine")
    world.gates.save(run.id, 20, "worse")
    refused = (await world.http.post(f"/v1/runs/{run.id}/promote", json={})).json()
    assert (refused["promoted"], refused["gate"]["outcome"]) == (False, "not_better")
    world.gates.save(run.id, 40)
    told = events((await world.http.post(f"/v1/runs/{run.id}/promote", json={"stream": True})).text)
    assert told[0] == ("progress", {"done": 8, "failed": 0, "total": 16})  # the current searcher's answers are known
    assert told[-1][0] == "done"
    assert (told[-1][1]["promoted"], told[-1][1]["model"], told[-1][1]["checkpoint"]) == (True, "good", 40)
    back = (await world.http.post("/v1/rollback", json={})).json()
    assert (back["model"], back["before"]) == ("base", "good")
    again = await world.http.post("/v1/rollback", json={})
    assert again.status_code == 422
    named = await world.http.post(f"/v1/runs/{run.id}/promote", json={"checkpoint": 3})
    assert [error["field"] for error in named.json()["errors"]] == ["checkpoint"]
