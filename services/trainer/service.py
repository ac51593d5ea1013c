"""v1.Trainer over gRPC: messages in and out, and the wiring."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import grpc

from common import run_config, run_services, server
from common.backends import GrpcPolicy
from common.codecs import trainer as codec
from common.run_config import ConfigProblem, RunConfig
from common.training import Run
from contracts.v1 import trainer_pb2 as pb
from contracts.v1.trainer_pb2_grpc import TrainerServicer, add_TrainerServicer_to_server
from search_agent.errors import Failure, TrainerError
from services.trainer import candidates
from services.trainer.candidates import Candidates
from services.trainer.jobs import RayJobs
from services.trainer.monitor import Monitor
from services.trainer.promotion import DEFAULT, GateLimits, Promoter
from services.trainer.runs import Runs
from services.trainer.settings import TrainerSettings

_NAME = re.compile(r"[A-Za-z0-9_-]+")


class TrainerService(TrainerServicer):
    """The contract over the parts that do the work."""

    def __init__(self, runs: Runs, monitor: Monitor, promoter: Promoter) -> None:
        self._runs, self._monitor, self._promoter = runs, monitor, promoter

    async def StartRun(self, request: pb.StartRunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        settings = read_config(request.config, request.overrides)
        return self._whole(await self._monitor.start(settings))

    async def ResumeRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        return self._whole(await self._monitor.resume(request.id))

    async def GetRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        return self._whole(self._runs.get(request.id))

    async def ListRuns(self, request: pb.ListRunsRequest, context: grpc.aio.ServicerContext) -> pb.ListRunsResponse:
        return pb.ListRunsResponse(runs=[codec.run_message(run) for run in self._runs.all()])

    async def WatchRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> AsyncIterator[pb.RunEvent]:
        async with aclosing(self._monitor.watch(request.id)) as events:
            async for event in events:
                yield codec.run_event_message(self._runs.whole(event) if isinstance(event, Run) else event)

    async def CancelRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        return self._whole(await self._monitor.cancel(request.id))

    async def Promote(
        self, request: pb.PromoteRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.PromoteEvent]:
        async with aclosing(self._promoter.promote(request.run, request.checkpoint, request.searcher)) as events:
            async for event in events:
                yield codec.promote_event_message(event)

    async def Rollback(self, request: pb.RollbackRequest, context: grpc.aio.ServicerContext) -> pb.Promotion:
        return codec.promotion_message(await self._promoter.rollback(request.searcher))

    def _whole(self, run: Run) -> pb.Run:
        return codec.run_message(self._runs.whole(run))


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


async def serve(settings: TrainerSettings) -> None:
    """Wires and serves until told to stop. Runs go on without this service, and are found again."""
    settings.runs.mkdir(parents=True, exist_ok=True)
    runs = Runs(settings.runs)
    jobs = None
    if settings.ray_address:
        token = settings.ray_token_file.read_text(encoding="utf-8").strip() if settings.ray_token_file else ""
        jobs = RayJobs(settings.ray_address, settings.ray_python, settings.ray_folder, token)
    monitor = Monitor(runs, jobs, settings.poll_s)
    targets = ({DEFAULT: settings.searcher} if settings.searcher else {}) | settings.searchers
    searchers = {name: GrpcPolicy(target, settings.searcher_timeout_s) for name, target in targets.items()}
    serving: Candidates = candidates.own_process
    if settings.candidate:
        serving = candidates.at(settings.candidate, settings.searcher_timeout_s)
    limits = GateLimits(settings.gate_concurrency, settings.gate_limit_s)
    promoter = Promoter(runs, settings.runs, searchers, serving, run_services.world_of, limits)
    register = partial(add_TrainerServicer_to_server, TrainerService(runs, monitor, promoter))
    following = asyncio.create_task(monitor.follow())
    try:
        await server.run("trainer", "v1.Trainer", settings, register)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        for searcher in searchers.values():
            await searcher.close()
        if jobs:
            await jobs.close()
