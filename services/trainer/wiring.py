"""From settings to a running service: the one place where the trainer's parts meet."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from common import run_services, server
from common.backends import GrpcPolicy
from contracts.v1.trainer_pb2_grpc import add_TrainerServicer_to_server
from services.trainer import candidates
from services.trainer.admission import Admission
from services.trainer.jobs import RayJobs
from services.trainer.monitor import Monitor
from services.trainer.promotion import DEFAULT, GateLimits, Promoter
from services.trainer.runs import Runs
from services.trainer.service import TrainerService
from services.trainer.settings import TrainerSettings


async def serve(settings: TrainerSettings) -> None:
    """Wires the parts and serves until told to stop. Runs continue without this service, and are found again."""
    try:
        settings.runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"TRAINER_RUNS: cannot make the folder {settings.runs}: {error.strerror}") from None
    runs = Runs(settings.runs)
    jobs = None
    if settings.ray_address:
        token = settings.ray_token.get_secret_value() if settings.ray_token else ""
        jobs = RayJobs(settings.ray_address, settings.ray_python, settings.ray_folder, token)
    monitor = Monitor(runs, jobs, settings.poll_s)
    targets = ({DEFAULT: settings.searcher} if settings.searcher else {}) | settings.searchers
    asked = (settings.searcher_timeout_s, settings.patience_s)  # the same for both sides of the gate
    searchers = {name: GrpcPolicy(target, *asked) for name, target in targets.items()}
    serving = candidates.at(settings.candidate, *asked) if settings.candidate else candidates.own_process(*asked)
    limits = GateLimits(settings.gate_concurrency, settings.gate_limit_s)
    promoter = Promoter(runs, settings.runs, searchers, serving, run_services.world_of, limits)
    admission = Admission(settings.ray_folder, settings.configs, settings.folders, settings.services)
    register = partial(add_TrainerServicer_to_server, TrainerService(runs, monitor, promoter, admission))
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
