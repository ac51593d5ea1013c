"""From jobs to states of runs, through restarts and a cluster that does not answer."""

import asyncio
import json
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from common.run_config import load
from common.training import Run, RunState, TrainingStep
from search_agent.errors import Failure, TrainerError
from services.trainer.jobs import Job, JobState
from services.trainer.monitor import Monitor
from services.trainer.runs import Runs
from tests.trainer_fakes import FakeJobs, clock
from tests.waiting import LIMIT_S, until_here

DEMO = load("smollm2-demo")


class World:
    """A folder of runs, a cluster, and the service's monitor, which can be started anew."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cluster = folder, FakeJobs()
        self.restart()

    def restart(self) -> None:
        self.runs = Runs(self.folder, clock())
        self.monitor = Monitor(self.runs, self.cluster, poll_s=0.01)

    def write(self, run: Run, step: int, gain: float) -> None:
        with (self.runs.path(run.id) / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "data": {"search/gain": gain}}) + "\n")


async def until(world: World, run: Run, state: RunState) -> None:
    async for event in world.monitor.watch(run.id):
        if isinstance(event, Run) and event.state is state:
            return
    pytest.fail(f"it ended before it was {state}")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    ("job", "state", "reason"),
    [
        (Job(JobState.WAITING), RunState.QUEUED, ""),
        (Job(JobState.RUNNING), RunState.RUNNING, ""),
        (Job(JobState.SUCCEEDED, 0), RunState.FINISHED, ""),
        (Job(JobState.STOPPED), RunState.CANCELLED, ""),
        (Job(JobState.FAILED, 3, "exit code 3"), RunState.STOPPED, "no GPU"),
        (
            Job(JobState.FAILED, 1, "Traceback\nKeyError: 'x'"),
            RunState.FAILED,
            "it exited with status 1: KeyError: 'x'",
        ),
        (Job(JobState.FAILED, None, "node died"), RunState.FAILED, "it died: node died"),
        (Job(JobState.UNKNOWN), RunState.FAILED, "the Ray cluster does not know its job"),
    ],
)
async def test_the_state_follows_from_the_job(world: World, job: Job, state: RunState, reason: str) -> None:
    run = await world.monitor.start(DEMO)
    (world.runs.path(run.id) / "reason.txt").write_text("no GPU\n")
    world.cluster.jobs[run.job] = job
    world.restart()
    moved = await world.monitor.refresh(world.runs.get(run.id))
    assert (moved.state, moved.reason) == (state, reason)
    assert world.runs.get(run.id) == moved
    log = world.runs.path(run.id) / "log.txt"
    assert log.read_text() == f"== job {run.job}\nwhat {run.job} wrote\n" if state.ended else not log.exists()


async def test_a_run_is_submitted_with_its_folder_and_configuration(world: World) -> None:
    run = await world.monitor.start(DEMO)
    assert world.cluster.folders == {run.job: world.runs.path(run.id)}
    assert (world.cluster.folders[run.job] / "config.yaml").exists()


async def test_a_run_that_cannot_be_submitted_has_failed_and_can_be_resumed(world: World) -> None:
    world.cluster.down = True
    with pytest.raises(TrainerError, match="the cluster is down"):
        await world.monitor.start(DEMO)
    (run,) = world.runs.all()
    assert (run.state, run.reason) == (RunState.FAILED, "it was not submitted: the cluster is down")
    world.cluster.down = False
    assert (await world.monitor.resume(run.id)).job == f"{run.id}-2"


async def test_a_cluster_that_does_not_answer_moves_nothing(world: World) -> None:
    run = await world.monitor.start(DEMO)
    world.cluster.down = True
    with pytest.raises(TrainerError, match="down"):
        await world.monitor.refresh(run)
    assert world.runs.get(run.id) == run


@pytest.mark.parametrize("state", [JobState.WAITING, JobState.RUNNING, JobState.SUCCEEDED])
async def test_only_a_run_that_broke_off_is_resumed(world: World, state: JobState) -> None:
    run = await world.monitor.start(DEMO)
    world.cluster.jobs[run.job] = Job(state)
    with pytest.raises(TrainerError) as caught:
        await world.monitor.resume(run.id)
    assert caught.value.failure is Failure.UNSUPPORTED


async def test_cancel(world: World) -> None:
    run = await world.monitor.start(DEMO)
    world.cluster.jobs[run.job] = Job(JobState.RUNNING)
    cancelled = await world.monitor.cancel(run.id)
    assert cancelled.state is RunState.CANCELLED
    assert await world.monitor.cancel(run.id) == cancelled
    resumed = await world.monitor.resume(run.id)
    assert (resumed.state, resumed.job) == (RunState.QUEUED, f"{run.id}-2")


async def test_without_a_cluster_all_but_training_works(world: World) -> None:
    run = await world.monitor.start(DEMO)
    monitor = Monitor(world.runs, None, 0.01)
    for refused in (monitor.start(DEMO), monitor.resume(run.id), monitor.cancel(run.id)):
        with pytest.raises(TrainerError, match="TRAINER_RAY_ADDRESS") as caught:
            await refused
        assert caught.value.failure is Failure.UNSUPPORTED
    assert len(world.runs.all()) == 1
    assert await monitor.refresh(run) == run


async def test_watching_replays_then_follows_to_the_end(world: World) -> None:
    run = await world.monitor.start(DEMO)
    world.cluster.jobs[run.job] = Job(JobState.RUNNING)
    for step, gain in ((1, 0.1), (2, 0.2), (1, 0.15)):
        world.write(run, step, gain)
    await world.monitor.refresh(run)
    following = asyncio.create_task(world.monitor.follow())
    seen: list[object] = []
    async with asyncio.timeout(LIMIT_S):
        async for event in world.monitor.watch(run.id):
            seen.append(event if isinstance(event, TrainingStep) else event.state)
            if len(seen) == 3:
                world.write(run, 3, 0.3)
            if event == TrainingStep(3, {"reward/gain": 0.3}):
                value = REGISTRY.get_sample_value("search_agent_trainer_runs", {"state": "running"})
                assert value == 1
                world.write(run, 4, 0.4)
                world.cluster.jobs[run.job] = Job(JobState.SUCCEEDED, 0)
    assert seen == [
        RunState.RUNNING,
        *(TrainingStep(number, {"reward/gain": gain}) for number, gain in ((1, 0.15), (2, 0.2), (3, 0.3), (4, 0.4))),
        RunState.FINISHED,
    ]
    part = {"run": run.id, "part": "gain"}
    await until_here(lambda: REGISTRY.get_sample_value("search_agent_training_reward", part) == 0.4)
    following.cancel()


async def test_a_broken_record_hides_no_other_run(world: World) -> None:
    (world.folder / "a-broken").mkdir()
    (world.folder / "a-broken" / "run.json").write_text("{")
    run = await world.monitor.start(DEMO)
    world.cluster.jobs[run.job] = Job(JobState.RUNNING)
    following = asyncio.create_task(world.monitor.follow())
    async with asyncio.timeout(LIMIT_S):
        await until(world, run, RunState.RUNNING)
    following.cancel()


async def test_a_restarted_service_follows_what_was_under_way(world: World) -> None:
    run = await world.monitor.start(DEMO)
    world.cluster.jobs[run.job] = Job(JobState.RUNNING)
    world.restart()
    following = asyncio.create_task(world.monitor.follow())
    async with asyncio.timeout(LIMIT_S):
        await until(world, run, RunState.RUNNING)
        world.cluster.down = True
        await asyncio.sleep(0.05)
        world.cluster.down = False
        world.cluster.jobs[run.job] = Job(JobState.FAILED, 1, "out of memory")
        await until(world, run, RunState.FAILED)
    following.cancel()


async def test_watching_a_run_that_has_ended_tells_it_all_and_ends(world: World) -> None:
    run = await world.monitor.start(DEMO)
    world.write(run, 1, 0.1)
    world.cluster.jobs[run.job] = Job(JobState.SUCCEEDED)
    await world.monitor.refresh(run)
    world.cluster.down = True
    events = [event async for event in world.monitor.watch(run.id)]
    assert [type(event) for event in events] == [Run, TrainingStep]
    with pytest.raises(TrainerError) as caught:
        [event async for event in world.monitor.watch("missing")]
    assert caught.value.failure is Failure.NOT_FOUND
