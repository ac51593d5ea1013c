"""Runs as jobs of a real local Ray, with a small scripted process in the place of training."""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from common.run_config import load
from common.training import Run, RunState, TrainingStep
from search_agent.errors import Failure, TrainerError
from services.trainer.jobs import JobState, RayJobs
from services.trainer.monitor import Monitor
from services.trainer.runs import Runs
from tests.waiting import LIMIT_S, until, until_here

# Not imported: Ray reads its token's variables when it is, and other tests here set them first.
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("ray", "aiohttp_cors")), reason="Ray's job API comes with ray[default]"
)

TOKEN = secrets.token_hex(32)
CLUSTER = """
import ray, sys
context = ray.init(address="local", num_cpus=1, include_dashboard=True, dashboard_port=0, log_to_driver=False)
print(context.dashboard_url, flush=True)
sys.stdin.read()
"""
# What it does is in the run's configuration: the seed. The second job of a run finishes what the first began.
TRAINING = """
import json, pathlib, sys, time
run = pathlib.Path(sys.argv[1])
seed = next(line for line in (run / "config.yaml").read_text().splitlines() if line.startswith("seed:"))
what = {"1": "finish", "2": "stop", "3": "crash", "4": "hang"}[seed.split()[1]]
log = run / "metrics.jsonl"
done = len(log.read_text().splitlines()) if log.exists() else 0
for step in range(done + 1, done + 3):
    with log.open("a") as file:
        file.write(json.dumps({"step": step, "data": {"search/gain": step / 10}}) + "\\n")
print("trained to", done + 2, "in", pathlib.Path.cwd().name, flush=True)
if done == 0:
    if what == "hang":
        time.sleep(600)
    if what == "stop":
        (run / "reason.txt").write_text("9 of 10 samples failed\\n")
        sys.exit(3)
    if what == "crash":
        sys.exit("no such GPU")
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Starts a cluster of one node and gives the address of its job API."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert cluster.stdin
    assert cluster.stdout
    url = f"http://{cluster.stdout.readline().strip()}"

    def takes_jobs() -> bool:  # it answers before the agent that starts jobs is there
        headers = {"Authorization": f"Bearer {TOKEN}"}
        try:
            probe = httpx.post(f"{url}/api/jobs/", json={"entrypoint": "true"}, headers=headers, timeout=10)
        except httpx.TimeoutException:
            return False
        return probe.status_code == 200

    until(takes_jobs)
    yield url
    cluster.stdin.close()
    cluster.wait(LIMIT_S)


class Service:
    """The parts of the trainer's service: runs, jobs, and the monitor that follows them."""

    def __init__(self, folder: Path, address: str, token: str = TOKEN, start_in: Path | None = None) -> None:
        if start_in is None:
            start_in = folder / "where it starts"
            script = start_in / "learning/train.py"
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(TRAINING)
        self.runs = Runs(folder / "runs")
        self.jobs = RayJobs(address, sys.executable, start_in, token)
        self.monitor = Monitor(self.runs, self.jobs, 0.2)

    async def __aenter__(self) -> "Service":
        self._following = asyncio.create_task(self.monitor.follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._following.cancel()
        await self.jobs.close()

    async def end_of(self, run: Run) -> tuple[list[int], Run]:
        """Returns the steps and the last state of a run."""
        steps, last = [], run
        async with asyncio.timeout(LIMIT_S):
            async for event in self.monitor.watch(run.id):
                if isinstance(event, TrainingStep):
                    steps.append(event.step)
                else:
                    last = event
        return steps, last


async def test_jobs_end_as_their_processes_do(address: str, tmp_path: Path) -> None:
    async with Service(tmp_path, address) as service:
        runs = [await service.monitor.start(load("smollm2-demo", {"seed": seed})) for seed in (1, 2, 3)]
        (steps, finished), (_, stopped), (_, failed) = await asyncio.gather(*map(service.end_of, runs))
        assert (finished.state, steps) == (RunState.FINISHED, [1, 2])
        assert (stopped.state, stopped.reason) == (RunState.STOPPED, "9 of 10 samples failed")
        assert failed.state is RunState.FAILED
        assert "status 1" in failed.reason
        for run, line in ((finished, "trained to 2 in where it starts"), (failed, "no such GPU")):
            log = service.runs.path(run.id) / "log.txt"
            await until_here(lambda log=log, line=line: log.exists() and line in log.read_text())

        resumed = await service.monitor.resume(failed.id)
        steps, last = await service.end_of(resumed)
        assert (last.state, last.jobs, steps) == (RunState.FINISHED, 2, [1, 2, 3, 4])


async def test_a_restarted_service_finds_its_run_and_cancels_it(address: str, tmp_path: Path) -> None:
    async with Service(tmp_path, address) as service:
        run = await service.monitor.start(load("smollm2-demo", {"seed": 4}))
        missing: set[RunState | int] = {RunState.RUNNING, 2}
        async with asyncio.timeout(LIMIT_S):
            async for event in service.monitor.watch(run.id):
                missing.discard(event.step if isinstance(event, TrainingStep) else event.state)
                if not missing:
                    break
    async with Service(tmp_path, address) as restarted:
        assert restarted.runs.get(run.id).state is RunState.RUNNING
        assert (await restarted.jobs.status(run.job)).state is JobState.RUNNING
        await restarted.monitor.cancel(run.id)
        steps, last = await restarted.end_of(run)
        assert (last.state, steps) == (RunState.CANCELLED, [1, 2])


async def test_training_itself_stops_with_a_reason_where_there_is_no_gpu(address: str, tmp_path: Path) -> None:
    async with Service(tmp_path, address, start_in=Path(__file__).parents[2]) as service:
        run = await service.monitor.start(load("smollm2-demo"))
        _, last = await service.end_of(run)
    assert last.state is RunState.STOPPED
    assert last.reason.startswith("reinforcement learning needs")


async def test_a_job_that_ray_does_not_know_and_a_ray_that_is_not_there(address: str, tmp_path: Path) -> None:
    async with Service(tmp_path, address) as service:
        assert (await service.jobs.status("nobody")).state is JobState.UNKNOWN
        assert await service.jobs.log("nobody") == ""
        await service.jobs.stop("nobody")
    async with Service(tmp_path, "http://127.0.0.1:9") as service:
        with pytest.raises(TrainerError) as caught:
            await service.jobs.status("nobody")
        assert caught.value.failure is Failure.UNAVAILABLE
    async with Service(tmp_path, address, "0" * 64) as service:
        with pytest.raises(TrainerError, match="TRAINER_RAY_TOKEN"):
            await service.monitor.start(load("smollm2-demo"))
