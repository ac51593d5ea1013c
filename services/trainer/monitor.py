"""Follows the active runs: derives their states from those of their jobs, and publishes their metrics."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator

import structlog

from common import metrics
from common.run_config import RunConfig
from common.training import STOPPED_BY_ITSELF, Run, RunState, TrainingStep
from search_agent.errors import Failure, TrainerError
from services.trainer import watch
from services.trainer.jobs import Job, Jobs, JobState
from services.trainer.runs import Runs
from services.trainer.watch import MetricsLog

log = structlog.get_logger()

NO_RAY = (
    "no Ray cluster is configured (TRAINER_RAY_ADDRESS); this trainer can list, watch, promote and roll back, "
    "but not train"
)
_RESUMABLE = (RunState.STOPPED, RunState.FAILED, RunState.CANCELLED)
_LINGER_S = 60.0  # an ended run stays in Prometheus this long, for the last scrapes


class Monitor:
    """Moves runs from state to state. Without jobs, it starts and stops nothing."""

    def __init__(self, runs: Runs, jobs: Jobs | None, poll_s: float) -> None:
        self._runs, self._jobs, self._poll_s = runs, jobs, poll_s
        self._submitting: set[str] = set()
        self._logs: dict[str, MetricsLog] = {}
        self._ended: dict[str, float] = {}  # when runs that Prometheus still shows had ended

    async def start(self, settings: RunConfig) -> Run:
        """Submits a new run. Raises TrainerError."""
        self._need_jobs()
        return await self._submit(self._runs.create(settings))

    async def resume(self, id: str) -> Run:
        """Submits an interrupted run once more. Raises TrainerError."""
        self._need_jobs()
        run = await self.refresh(self._runs.get(id))
        if run.state not in _RESUMABLE:
            raise TrainerError(Failure.UNSUPPORTED, f"run {id} is {run.state}; only an interrupted run can be resumed")
        return await self._submit(self._runs.again(run))

    async def cancel(self, id: str) -> Run:
        """Asks a run's job to stop. A run that has ended stays as it is. Raises TrainerError."""
        run = self._runs.get(id)
        if run.state.ended:
            return run
        await self._need_jobs().stop(run.job)
        return await self.refresh(run)

    async def refresh(self, run: Run) -> Run:
        """Moves the run to the state of its job. Raises TrainerError if the cluster does not tell it."""
        if run.state.ended or run.id in self._submitting or self._jobs is None:
            return run
        job = await self._jobs.status(run.job)
        state, reason = self._outcome(run, job)
        current = self._runs.get(run.id)
        if current != run or state is run.state:  # moved meanwhile, or nothing to move
            return current
        log.info("run moved", run=run.id, state=state, reason=reason)
        moved = self._runs.move(run, state, reason)
        if state.ended:
            await self._keep_log(run)
        return moved

    async def follow(self) -> None:
        """Follows all runs until cancelled, including those that an earlier service started."""
        while True:
            states: Counter[RunState] = Counter()
            for id in self._runs.ids():
                try:
                    states[await self._look_at(self._runs.get(id))] += 1
                except (TrainerError, OSError) as error:
                    log.warning("a run cannot be followed", run=id, error=str(error))
            for state in RunState:
                metrics.TRAINER_RUNS.labels(state).set(states[state])
            await asyncio.sleep(self._poll_s)

    async def watch(self, id: str) -> AsyncGenerator[Run | TrainingStep, None]:
        """Yields the run and all its steps so far, then each change until it has ended. Raises TrainerError."""
        run = self._runs.get(id)
        log_file = MetricsLog(self._runs.path(id) / "metrics.jsonl")
        log_file.new()
        yield run
        for step in sorted(log_file.steps.values(), key=lambda step: step.step):
            yield step
        while not run.state.ended:
            await asyncio.sleep(self._poll_s)
            now = self._runs.get(id)
            for step in log_file.new():  # steps written before the state was read come first
                yield step
            if now != run:
                run = now
                yield run

    async def _look_at(self, run: Run) -> RunState:
        if not run.state.ended:
            try:
                run = await self.refresh(run)
            except TrainerError as error:  # its metrics can be read all the same
                log.warning("a run's job cannot be looked up", run=run.id, error=str(error))
        if not run.state.ended or run.id in self._logs:
            steps = self._logs.setdefault(run.id, MetricsLog(self._runs.path(run.id) / "metrics.jsonl"))
            watch.publish(run.id, steps.new())
        if run.state.ended and run.id in self._logs:
            since = self._ended.setdefault(run.id, time.monotonic())
            if time.monotonic() - since > _LINGER_S:
                watch.withdraw(run.id)
                del self._logs[run.id], self._ended[run.id]
        elif not run.state.ended:
            self._ended.pop(run.id, None)
        return run.state

    async def _submit(self, run: Run) -> Run:
        jobs = self._need_jobs()
        self._submitting.add(run.id)
        try:
            await jobs.submit(run.job, self._runs.path(run.id))
        except TrainerError as error:
            self._runs.move(run, RunState.FAILED, f"it was not submitted: {error}")
            raise
        finally:
            self._submitting.discard(run.id)
        return run

    def _outcome(self, run: Run, job: Job) -> tuple[RunState, str]:
        match job.state:
            case JobState.WAITING:
                return RunState.QUEUED, ""
            case JobState.RUNNING:
                return RunState.RUNNING, ""
            case JobState.SUCCEEDED:
                return RunState.FINISHED, ""
            case JobState.STOPPED:
                return RunState.CANCELLED, ""
            case JobState.UNKNOWN:
                return RunState.FAILED, "the Ray cluster does not know its job"
        if job.exit_code == STOPPED_BY_ITSELF:
            return RunState.STOPPED, self._reason(run)
        status = "it died" if job.exit_code is None else f"it exited with status {job.exit_code}"
        last = job.message.strip().splitlines()[-1:]
        return RunState.FAILED, ": ".join([status, *last])

    def _reason(self, run: Run) -> str:
        """Returns, in one line, the reason that the run itself gave."""
        try:
            text = (self._runs.path(run.id) / "reason.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        return " ".join(text.split()) or "it gave no reason"

    async def _keep_log(self, run: Run) -> None:
        """Appends the job's output to RUN/log.txt."""
        assert self._jobs
        try:
            text = await self._jobs.log(run.job)
        except TrainerError as error:
            log.warning("a job's log cannot be fetched", run=run.id, error=str(error))
            return
        with (self._runs.path(run.id) / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"== job {run.job}\n{text.rstrip()}\n")

    def _need_jobs(self) -> Jobs:
        if self._jobs is None:
            raise TrainerError(Failure.UNSUPPORTED, NO_RAY)
        return self._jobs
