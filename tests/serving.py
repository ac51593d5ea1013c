"""gRPC services for tests, which stop however a test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from common import server
from common.settings import ServiceSettings


@asynccontextmanager
async def grpc_service(
    name: str, full_name: str, settings: ServiceSettings, register: Callable[[grpc.aio.Server], None]
) -> AsyncIterator[str]:
    """Serves `full_name` ("v1.Retriever") while the context is open, which gives the address."""
    started, port = await server.start(name, full_name, settings, register)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await started.stop(0)
