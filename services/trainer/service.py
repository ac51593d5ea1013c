"""v1.Trainer over gRPC: messages in and out, and the wiring."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc

from common import run_config, run_services, server
from common.backends import GrpcPolicy
from common.run_config import ConfigProblem, RunConfig
from contracts.v1 import trainer_pb2 as pb
from contracts.v1.trainer_pb2_grpc import TrainerServicer, add_TrainerServicer_to_server
from search_agent.errors import Failure, TrainerError
from services.trainer import candidates
from services.trainer.candidates import Candidates
from services.trainer.gate import Outcome, Verdict
from services.trainer.monitor import Monitor
from services.trainer.promotion import DEFAULT, Environment, Limits, Progress, Promoter, Promotion
from services.trainer.runner import RayJobs
from services.trainer.runs import Run, Runs
from services.trainer.settings import TrainerSettings

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_OUTCOMES = {
    Outcome.PASSED: pb.Gate.PASSED,
    Outcome.NOT_BETTER: pb.Gate.NOT_BETTER,
    Outcome.INCONCLUSIVE: pb.Gate.INCONCLUSIVE,
}


class Trainer(TrainerServicer):
    """The contract over the parts that do the work."""

    def __init__(self, runs: Runs, monitor: Monitor, promoter: Promoter) -> None:
        self._runs, self._monitor, self._promoter = runs, monitor, promoter

    async def StartRun(self, request: pb.StartRunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        settings = read_config(request.config, request.overrides)
        return self._described(await self._monitor.start(settings))

    async def ResumeRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        return self._described(await self._monitor.resume(request.id))

    async def GetRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        return self._described(self._runs.get(request.id))

    async def ListRuns(self, request: pb.ListRunsRequest, context: grpc.aio.ServicerContext) -> pb.ListRunsResponse:
        return pb.ListRunsResponse(runs=[self._described(run, whole=False) for run in self._runs.all()])

    async def WatchRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[pb.RunEvent]:
        async with aclosing(self._monitor.watch(request.id)) as events:
            async for event in events:
                if isinstance(event, Run):
                    yield pb.RunEvent(run=self._described(event))
                else:
                    yield pb.RunEvent(step=pb.Step(step=event.number, metrics=event.metrics))

    async def CancelRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        return self._described(await self._monitor.cancel(request.id))

    async def Promote(
        self, request: pb.PromoteRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.PromoteEvent]:
        async with aclosing(self._promoter.promote(request.run, request.checkpoint, request.searcher)) as events:
            async for event in events:
                if isinstance(event, Progress):
                    progress = pb.GateProgress(done=event.done, failed=event.failed, total=event.total)
                    yield pb.PromoteEvent(progress=progress)
                else:
                    yield pb.PromoteEvent(promotion=_promotion(event))

    async def Rollback(self, request: pb.RollbackRequest, context: grpc.aio.ServicerContext) -> pb.Promotion:
        return _promotion(await self._promoter.rollback(request.searcher))

    def _described(self, run: Run, whole: bool = True) -> pb.Run:
        return pb.Run(
            id=run.id,
            state=pb.RunState.Value(run.state.name),
            created_at=run.created_at,
            changed_at=run.changed_at,
            reason=run.reason,
            config=self._runs.config_text(run.id) if whole else "",
            checkpoints=self._runs.checkpoints(run.id),
        )


def read_config(text: str, overrides: Mapping[str, str]) -> RunConfig:
    """The configuration of that name, or the YAML text itself. Raises TrainerError naming the field."""
    try:
        values = {field: _json(field, value) for field, value in overrides.items()}
        if _NAME.fullmatch(text):
            return run_config.load(text, values)
        return run_config.read(text, values)
    except ConfigProblem as problem:
        field = f"config.{problem.field}" if problem.field else "config"
        raise TrainerError(Failure.INVALID, problem.message, field) from None


def _json(field: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise ConfigProblem(field, f"{value!r} is not JSON") from None


def _promotion(promotion: Promotion) -> pb.Promotion:
    return pb.Promotion(
        searcher=promotion.searcher,
        model=promotion.model,
        before=promotion.before,
        run=promotion.run,
        checkpoint=promotion.checkpoint,
        gate=_gate(promotion.verdict) if promotion.verdict else None,
        at=promotion.at,
    )


def _gate(verdict: Verdict) -> pb.Gate:
    gate = pb.Gate(
        outcome=_OUTCOMES[verdict.outcome],
        reason=verdict.reason,
        asked=verdict.asked,
        failed=verdict.failed,
        margin=verdict.margin,
    )
    if found := verdict.comparison:
        difference = found.difference
        gate.compared, gate.wins, gate.losses, gate.p = found.count, found.wins, found.losses, found.p
        gate.difference, gate.low, gate.high = difference.mean, difference.low, difference.high
        gate.candidate, gate.current = verdict.candidate or 0.0, verdict.current or 0.0
    return gate


@asynccontextmanager
async def _environment(settings: RunConfig) -> AsyncIterator[Environment]:
    retriever, generator = run_services.retriever_of(settings), run_services.generator_of(settings)
    try:
        yield Environment(retriever, generator, run_services.judge_of(settings.reward))
    finally:
        await retriever.close()
        await generator.close()


async def serve(settings: TrainerSettings) -> None:
    """Wires and serves until told to stop. Runs go on without this service, and are found again."""
    settings.runs.mkdir(parents=True, exist_ok=True)
    runs = Runs(settings.runs)
    runner = None
    if settings.ray_address:
        token = settings.ray_token_file.read_text(encoding="utf-8").strip() if settings.ray_token_file else ""
        runner = RayJobs(settings.ray_address, settings.ray_python, settings.ray_folder, token)
    monitor = Monitor(runs, runner, settings.poll_s)
    targets = ({DEFAULT: settings.searcher} if settings.searcher else {}) | settings.searchers
    searchers = {name: GrpcPolicy(target, settings.searcher_timeout_s) for name, target in targets.items()}
    serving: Candidates = candidates.own_process
    if settings.candidate:
        serving = candidates.at(settings.candidate, settings.searcher_timeout_s)
    limits = Limits(settings.gate_concurrency, settings.gate_limit_s)
    promoter = Promoter(runs, settings.runs, searchers, serving, _environment, limits)
    register = partial(add_TrainerServicer_to_server, Trainer(runs, monitor, promoter))
    following = asyncio.create_task(monitor.follow())
    try:
        await server.run("trainer", "v1.Trainer", settings, register)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        for searcher in searchers.values():
            await searcher.close()
        if runner:
            await runner.close()
