"""Serves a trainer over real gRPC, or a gateway over real HTTP, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import uvicorn

from common import client, server
from common.addresses import join
from contracts.v1.trainer_pb2_grpc import TrainerServicer, TrainerStub, add_TrainerServicer_to_server
from services.trainer.settings import TrainerSettings
from tests.unit.gateway.rest import Rest

_TO_ASK = {"::": "::1"}  # a server that listens everywhere is asked on the loopback


class Served:
    """Serves while the context is open, which gives a client stub."""

    def __init__(
        self, folder: Path, servicer: TrainerServicer, max_in_flight: int = 8, settings: TrainerSettings | None = None
    ) -> None:
        self._settings = settings or TrainerSettings(runs=folder, port=0, max_in_flight=max_in_flight)
        self._servicer = servicer

    async def __aenter__(self) -> TrainerStub:
        register = partial(add_TrainerServicer_to_server, self._servicer)
        self._server, self.port = await server.start("trainer", "v1.Trainer", self._settings, register)
        self.channel = client.connect(join(_TO_ASK.get(self._settings.host, self._settings.host), self.port))
        return TrainerStub(self.channel)

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self._server.stop(0)


@asynccontextmanager
async def gateway(stack: Rest) -> AsyncIterator[str]:
    """Serves while the context is open, which gives the address."""
    server = uvicorn.Server(uvicorn.Config(stack.app, port=0, log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task
