"""The trainer over real gRPC: runs on disk, their jobs, and what watching shows. The cluster is a fake over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from contracts.v1.trainer_pb2_grpc import add_TrainerServicer_to_server
from search_agent.errors import Failure, TrainerError
from services.common import server
from services.common.backends import GrpcTrainer
from services.trainer import wiring
from services.trainer.jobs import Jobs, JobState, NoCluster, RayJobs
from services.trainer.runs import Runs
from services.trainer.service import Trainer
from services.trainer.settings import TrainerSettings


class Cluster:
    """Ray's job API as far as it is used: jobs by name, whose states a test sets."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, str]] = {}
        self.up = True

    def answer(self, request: httpx.Request) -> httpx.Response:
        if not self.up:
            raise httpx.ConnectError("refused")
        path = request.url.path.strip("/").split("/")
        if request.method == "POST" and path == ["api", "jobs"]:
            name = f"job-{len(self.jobs)}"
            self.jobs[name] = {"status": "PENDING", "entrypoint": json.loads(request.content)["entrypoint"]}
            return httpx.Response(200, json={"submission_id": name})
        if path[2] not in self.jobs:
            return httpx.Response(404, text="no such job")
        job = self.jobs[path[2]]
        if path[-1] == "stop":
            job["status"] = "STOPPED"
        return httpx.Response(200, json=job)

    @property
    def client(self) -> RayJobs:
        return RayJobs("http://ray:8265", transport=httpx.MockTransport(self.answer))


class Serving:
    """A trainer service in this process."""

    def __init__(self, folder: Path, jobs: Jobs) -> None:
        self._settings = TrainerSettings(runs=folder, port=0, poll_s=0.02)
        self.servicer = Trainer(Runs(folder), jobs, wiring.promoter_of(self._settings), 0.02)

    async def __aenter__(self) -> GrpcTrainer:
        register = partial(add_TrainerServicer_to_server, self.servicer)
        self._server, port = await server.start("trainer", "v1.Trainer", self._settings, register)
        self._client = GrpcTrainer(f"127.0.0.1:{port}", 5, 20)
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        await self._server.stop(0)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def trainer(tmp_path: Path, cluster: Cluster) -> AsyncIterator[GrpcTrainer]:
    async with Serving(tmp_path, cluster.client) as client:
        yield client


async def test_a_run_from_start_to_end(tmp_path: Path, cluster: Cluster, trainer: GrpcTrainer) -> None:
    run = await trainer.start("smollm2-demo", {"seed": "7", "data.limit": "100"})
    assert (run.state, run.config) == ("queued", "smollm2-demo")
    written = (tmp_path / run.id / "config.yaml").read_text()
    assert "seed: 7\n" in written
    assert "limit: 100\n" in written
    assert cluster.jobs["job-0"]["entrypoint"].endswith(f"-m services.trainer.train {tmp_path / run.id}")
    cluster.jobs["job-0"]["status"] = "RUNNING"
    assert (await trainer.run(run.id)).state == "running"
    (tmp_path / run.id / "checkpoints" / "global_step_20").mkdir(parents=True)
    (tmp_path / run.id / "checkpoints" / "global_step_5").mkdir()
    cluster.jobs["job-0"]["status"] = "SUCCEEDED"
    assert [(found.state, list(found.checkpoints)) for found in await trainer.runs()] == [("finished", [5, 20])]
    with pytest.raises(TrainerError, match="the run is finished"):
        await trainer.resume(run.id)


async def test_a_run_that_stopped_by_itself_says_why_and_is_resumed(
    tmp_path: Path, cluster: Cluster, trainer: GrpcTrainer
) -> None:
    run = await trainer.start("smollm2-demo", {})
    (tmp_path / run.id / "reason.txt").write_text("step 3: 9 of 10 samples failed\n")
    cluster.jobs["job-0"]["status"] = "FAILED"
    stopped = await trainer.run(run.id)
    assert (stopped.state, stopped.reason) == ("stopped", "step 3: 9 of 10 samples failed")
    resumed = await trainer.resume(run.id)
    assert (resumed.state, resumed.reason) == ("queued", "")
    assert len(cluster.jobs) == 2
    with pytest.raises(TrainerError, match="the run is queued"):
        await trainer.resume(run.id)


async def test_a_crash_a_lost_job_and_a_cancelled_run(cluster: Cluster, trainer: GrpcTrainer) -> None:
    crashed, lost, unwanted = [await trainer.start("smollm2-demo", {}) for _ in range(3)]
    cluster.jobs["job-0"] |= {"status": "FAILED", "message": "out of memory"}
    del cluster.jobs["job-1"]
    found = await trainer.run(crashed.id)
    assert (found.state, found.reason) == ("failed", "out of memory")
    assert (await trainer.run(lost.id)).reason.endswith("resume it")
    assert (await trainer.cancel(unwanted.id)).state == "cancelled"
    assert cluster.jobs["job-2"]["status"] == "STOPPED"
    with pytest.raises(TrainerError, match="the run is cancelled"):
        await trainer.cancel(unwanted.id)


async def test_a_restarted_service_finds_its_runs(tmp_path: Path, cluster: Cluster) -> None:
    async with Serving(tmp_path, cluster.client) as before:
        run = await before.start("smollm2-demo", {})
    cluster.jobs["job-0"]["status"] = "RUNNING"
    async with Serving(tmp_path, cluster.client) as after:
        assert [(found.id, found.state) for found in await after.runs()] == [(run.id, "running")]
        cluster.up = False
        assert (await after.run(run.id)).state == "running"  # nobody knows better
        with pytest.raises(TrainerError, match="Ray cannot be reached"):
            await after.start("smollm2-demo", {})
        assert len(await after.runs()) == 1


async def test_watching_replays_each_step_once_and_follows(
    tmp_path: Path, cluster: Cluster, trainer: GrpcTrainer
) -> None:
    run = await trainer.start("smollm2-demo", {})
    file = tmp_path / run.id / "metrics.jsonl"

    def write(step: int, gain: float) -> None:
        with file.open("a") as lines:
            lines.write(json.dumps({"step": step, "data": {"search/gain": gain, "other": 1}}) + "\n")

    for step, gain in ((1, 0.1), (2, 0.2), (2, 0.25)):
        write(step, gain)
    seen: asyncio.Queue[tuple[str, int, float]] = asyncio.Queue()

    async def watch() -> None:
        async for event in trainer.watch(run.id):
            seen.put_nowait((event.run.state, event.step, event.metrics.get("gain", 0.0)))

    async def told() -> tuple[str, int, float]:
        return await asyncio.wait_for(seen.get(), 5)

    watching = asyncio.create_task(watch())
    assert [await told() for _ in range(3)] == [("queued", 1, 0.1), ("queued", 2, 0.25), ("queued", 0, 0.0)]
    cluster.jobs["job-0"]["status"] = "RUNNING"
    assert await told() == ("running", 0, 0.0)
    write(3, 0.3)
    assert await told() == ("running", 3, 0.3)
    cluster.jobs["job-0"]["status"] = "SUCCEEDED"
    assert await told() == ("finished", 0, 0.0)
    await asyncio.wait_for(watching, 5)
    assert seen.empty()


@pytest.mark.parametrize(
    ("settings", "overrides", "field"),
    [
        ("nothing-of-that-name", {}, "config"),
        ("smollm2-demo", {"data.limit": "0"}, "data.limit"),
        ("smollm2-demo", {"data.limit": "["}, "overrides"),
        ("smollm2-demo", {"verl.trainer.logger": "console"}, "verl.trainer.logger"),
        ("name: x\nseed: [", {}, "config"),
        ("../../etc/passwd", {}, "config"),
    ],
)
async def test_a_bad_configuration_is_named(
    settings: str, overrides: dict[str, str], field: str, trainer: GrpcTrainer
) -> None:
    with pytest.raises(TrainerError) as caught:
        await trainer.start(settings, overrides)
    assert (caught.value.failure, caught.value.field) == (Failure.INVALID, field)
    assert not await trainer.runs()


async def test_without_a_cluster_all_but_training_works(tmp_path: Path) -> None:
    async with Serving(tmp_path, NoCluster()) as trainer:
        assert not await trainer.runs()
        with pytest.raises(TrainerError, match="TRAINER_RAY_ADDRESS") as caught:
            await trainer.start("smollm2-demo", {})
        assert caught.value.failure is Failure.UNSUPPORTED
        assert not await trainer.runs()


@pytest.mark.parametrize("id", ["nobody", "../elsewhere", "", "."])
async def test_an_unknown_run(id: str, trainer: GrpcTrainer) -> None:
    for ask in (trainer.run, trainer.cancel, trainer.resume):
        with pytest.raises(TrainerError, match="there is no run") as caught:
            await ask(id)
        assert caught.value.failure is Failure.NOT_FOUND


async def test_a_broken_record_is_named(tmp_path: Path, trainer: GrpcTrainer) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text('{"state": "done"}')
    with pytest.raises(TrainerError, match=r"bad/run\.json") as caught:
        await trainer.runs()
    assert caught.value.failure is Failure.BROKEN


async def test_a_checkpoint_that_is_not_there(tmp_path: Path, trainer: GrpcTrainer) -> None:
    run = await trainer.start("smollm2-demo", {})
    with pytest.raises(TrainerError, match="the run has no checkpoint"):
        await trainer.promote(run.id, 0)
    (tmp_path / run.id / "checkpoints" / "global_step_5").mkdir(parents=True)
    with pytest.raises(TrainerError, match="no checkpoint 7; there are 5"):
        await trainer.promote(run.id, 7)
    with pytest.raises(TrainerError, match="TRAINER_CANDIDATE"):
        await trainer.promote(run.id, 0)


async def test_jobs_have_the_states_that_ray_gives_them(cluster: Cluster) -> None:
    jobs = cluster.client
    assert await jobs.state("nobody") == (JobState.UNKNOWN, "")
    await jobs.stop("nobody")
    await jobs.close()
