"""v1.Trainer over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
import structlog
import yaml

from contracts.v1 import trainer_pb2 as pb
from contracts.v1.trainer_pb2_grpc import TrainerServicer, add_TrainerServicer_to_server
from search_agent.errors import BoundaryError, Failure, TrainerError
from services.common import metrics, server
from services.trainer import config, watch, wiring
from services.trainer.config import ConfigProblem
from services.trainer.gate import Verdict
from services.trainer.jobs import Jobs, JobState
from services.trainer.promotion import Promoter, Serving
from services.trainer.runs import Run, Runs, State
from services.trainer.settings import TrainerSettings

log = structlog.get_logger()
_LOST = "the cluster does not know its job any more; resume it"
_STATES = {
    JobState.PENDING: State.QUEUED,
    JobState.RUNNING: State.RUNNING,
    JobState.SUCCEEDED: State.FINISHED,
    JobState.STOPPED: State.CANCELLED,
    JobState.FAILED: State.FAILED,
    JobState.UNKNOWN: State.FAILED,
}


class Trainer(TrainerServicer):
    """Runs on disk, their jobs on a cluster, and the checkpoint that is served.

    A run's state is asked of the cluster whenever somebody looks, so that a service that was restarted, or a
    cluster that was, leads to no state that nobody corrects.
    """

    def __init__(self, runs: Runs, jobs: Jobs, promoter: Promoter, poll_s: float) -> None:
        self._runs, self._jobs, self._promoter, self._poll_s = runs, jobs, promoter, poll_s

    async def StartRun(self, request: pb.StartRunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        try:
            overrides = {name: yaml.safe_load(value) for name, value in request.overrides.items()}
            chosen = config.read(request.config, overrides)
        except ConfigProblem as problem:
            raise TrainerError(Failure.INVALID, problem.message, problem.field or "config") from None
        except yaml.YAMLError as error:
            raise TrainerError(Failure.INVALID, " ".join(str(error).split()), "overrides") from None
        run = self._runs.create(chosen)
        try:
            return self._told(await self._submit(run))
        except TrainerError:
            shutil.rmtree(self._runs.path(run.id))  # the caller has the configuration, and nothing has begun
            raise

    async def ResumeRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        run = await self._fresh(self._runs.get(request.id))
        if not run.state.over or run.state is State.FINISHED:
            raise TrainerError(Failure.INVALID, f"the run is {run.state}", "id")
        return self._told(await self._submit(run))

    async def CancelRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        run = await self._fresh(self._runs.get(request.id))
        if run.state.over:
            raise TrainerError(Failure.INVALID, f"the run is {run.state}", "id")
        await self._jobs.stop(run.job)
        run = replace(run, state=State.CANCELLED)
        self._runs.save(run)
        return self._told(run)

    async def GetRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        return self._told(await self._fresh(self._runs.get(request.id)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: grpc.aio.ServicerContext) -> pb.ListRunsResponse:
        return pb.ListRunsResponse(runs=[self._told(run) for run in await self._all()])

    async def WatchRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[pb.RunEvent]:
        run = await self._fresh(self._runs.get(request.id))
        file = self._runs.path(run.id) / "metrics.jsonl"
        lines = watch.Metrics(file)
        for step, found in watch.by_step(lines.new()).items():
            yield pb.RunEvent(run=self._told(run), step=step, metrics=found)
        yield pb.RunEvent(run=self._told(run))
        while not run.state.over:
            await asyncio.sleep(self._poll_s)
            before, run = run, await self._fresh(self._runs.get(run.id))
            for step, found in lines.new():
                yield pb.RunEvent(run=self._told(run), step=step, metrics=found)
            if run != before:
                yield pb.RunEvent(run=self._told(run))

    async def Promote(self, request: pb.PromoteRequest, context: grpc.aio.ServicerContext) -> pb.Promotion:
        run = self._runs.get(request.run)
        there = self._runs.checkpoints(run.id)
        if not there:
            raise TrainerError(Failure.NOT_FOUND, "the run has no checkpoint", "run")
        step = request.checkpoint or max(there)
        if step not in there:
            steps = ", ".join(map(str, there))
            raise TrainerError(Failure.NOT_FOUND, f"the run has no checkpoint {step}; there are {steps}", "checkpoint")
        folder = self._runs.path(run.id)
        chosen = config.load(str(folder / "config.yaml"))
        verdict, serving = await self._promoter.promote(chosen, folder, step, there[step])
        return pb.Promotion(gate=_gate(verdict), serving=_serving(serving))

    async def Rollback(self, request: pb.RollbackRequest, context: grpc.aio.ServicerContext) -> pb.Serving:
        return _serving(await self._promoter.rollback())

    async def observe(self) -> None:
        """Keeps the runs' states and the metrics of those under way in Prometheus, until cancelled."""
        readers: dict[str, watch.Metrics] = {}
        while True:
            try:
                under_way = {run.id for run in await self._all() if not run.state.over}
            except BoundaryError as error:
                log.warning("runs cannot be read", error=str(error))
                under_way = set()
            for run in under_way:
                reader = readers.setdefault(run, watch.Metrics(self._runs.path(run) / "metrics.jsonl"))
                for step, found in reader.new():
                    metrics.TRAINER_STEP.labels(run).set(step)
                    for name, value in found.items():
                        metrics.TRAINER_METRIC.labels(run, name).set(value)
            await asyncio.sleep(self._poll_s)

    async def _submit(self, run: Run) -> Run:
        job = await self._jobs.submit(self._runs.path(run.id))
        run = replace(run, state=State.QUEUED, job=job, reason="")
        self._runs.save(run)
        return run

    async def _all(self) -> list[Run]:
        runs = [await self._fresh(run) for run in self._runs.list()]
        metrics.TRAINER_RUNS.clear()
        for run in runs:
            metrics.TRAINER_RUNS.labels(run.state).inc()
        return runs

    async def _fresh(self, run: Run) -> Run:
        """The run in the state that the cluster tells; in its last known one while the cluster does not answer."""
        if run.state.over:
            return run
        try:
            job, message = await self._jobs.state(run.job) if run.job else (JobState.UNKNOWN, "")
        except TrainerError as error:
            log.warning("state of a run is not known", run=run.id, error=str(error))
            return run
        now = replace(run, state=_STATES[job])
        if job is JobState.UNKNOWN:
            now = replace(now, reason=_LOST)
        elif job is JobState.FAILED:
            stopped = self._runs.reason(run.id)
            now = replace(now, state=State.STOPPED if stopped else State.FAILED, reason=stopped or message)
        if now != run:
            self._runs.save(now)
        return now

    def _told(self, run: Run) -> pb.Run:
        steps = self._runs.checkpoints(run.id)
        return pb.Run(
            id=run.id,
            state=run.state,
            created_at=run.created_at,
            config=run.config,
            reason=run.reason,
            checkpoints=list(steps),
        )


def _gate(verdict: Verdict) -> pb.Gate:
    found: dict[str, Any] = {
        "candidate": verdict.candidate,
        "current": verdict.current,
        "difference": verdict.difference.mean,
        "low": verdict.difference.low,
        "high": verdict.difference.high,
    }
    return pb.Gate(
        passed=verdict.passed,
        reason=verdict.reason,
        questions=verdict.questions,
        failed=verdict.failed,
        **{name: value for name, value in found.items() if not math.isnan(value)},
    )


def _serving(serving: Serving) -> pb.Serving:
    return pb.Serving(model=serving.model, adapter=serving.adapter)


async def serve(settings: TrainerSettings) -> None:
    """Wires and serves until told to stop."""
    settings.runs.mkdir(parents=True, exist_ok=True)
    jobs = wiring.jobs_of(settings)
    trainer = Trainer(Runs(settings.runs), jobs, wiring.promoter_of(settings), settings.poll_s)
    observing = asyncio.create_task(trainer.observe())
    try:
        await server.run("trainer", "v1.Trainer", settings, partial(add_TrainerServicer_to_server, trainer))
    finally:
        observing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await observing
        await jobs.close()
