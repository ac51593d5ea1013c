"""v1.Trainer over gRPC."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import grpc

from contracts.v1 import trainer_pb2 as pb
from contracts.v1.trainer_pb2_grpc import TrainerServicer, add_TrainerServicer_to_server
from services.common import metrics, server
from services.trainer.runs import list_runs
from services.trainer.settings import TrainerSettings


class Trainer(TrainerServicer):
    """Lists the runs of a folder; starting them comes with the training loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def ListRuns(self, request: pb.ListRunsRequest, context: grpc.aio.ServicerContext) -> pb.ListRunsResponse:
        runs = list_runs(self._folder)
        metrics.TRAINER_RUNS.clear()
        for run in runs:
            metrics.TRAINER_RUNS.labels(run.state).inc()
        return pb.ListRunsResponse(runs=[pb.Run(id=run.id, state=run.state, created_at=run.created_at) for run in runs])


async def serve(settings: TrainerSettings) -> None:
    """Wires and serves until told to stop."""
    settings.runs.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(settings.runs)
    register = partial(add_TrainerServicer_to_server, trainer)
    await server.run("trainer", "v1.Trainer", settings, register)
