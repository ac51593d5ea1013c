"""`python -m services.gateway`: serves the REST contract."""

from __future__ import annotations

import asyncio

from common.settings import load
from services.gateway.settings import GatewaySettings


def main() -> None:
    settings = load(GatewaySettings)

    import uvicorn

    from common import logs
    from services.gateway.wiring import wire

    logs.configure("gateway", settings.log_level)

    async def serve() -> None:
        config = uvicorn.Config(
            wire(settings),  # inside the loop, which gRPC channels are bound to
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,  # every question is logged once, with its request id
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_grace_s,
        )
        await uvicorn.Server(config).serve()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
