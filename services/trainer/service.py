"""v1.Trainer over gRPC: requests are checked, and values become messages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from common.codecs import trainer as codec
from common.run_config import ConfigProblem
from common.training import Run
from contracts.v1 import trainer_pb2 as pb
from contracts.v1.trainer_pb2_grpc import TrainerServicer
from search_agent.errors import Failure, TrainerError
from services.trainer.admission import Admission
from services.trainer.monitor import Monitor
from services.trainer.promotion import Promoter
from services.trainer.runs import Runs


class TrainerService(TrainerServicer):
    """Serves the contract. Runs, monitor and promoter do the work."""

    def __init__(self, runs: Runs, monitor: Monitor, promoter: Promoter, admission: Admission) -> None:
        self._runs, self._monitor, self._promoter, self._admission = runs, monitor, promoter, admission

    async def StartRun(self, request: pb.StartRunRequest, context: grpc.aio.ServicerContext) -> pb.Run:
        try:
            values = {field: _json(field, value) for field, value in request.overrides.items()}
            settings = self._admission.config(request.config, values)
        except ConfigProblem as problem:
            field = f"config.{problem.field}" if problem.field else "config"
            raise TrainerError(Failure.INVALID, problem.message, field) from None
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


def _json(field: str, value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ConfigProblem(field, f"{value[:100]!r} is not JSON") from None
