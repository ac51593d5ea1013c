"""`python -m services.gateway`: serves the REST contract."""

from __future__ import annotations

from common import grpc_threads
from common.settings import TracingSettings, load
from services.gateway.settings import GatewaySettings


def main() -> None:
    settings, traced = load(GatewaySettings), load(TracingSettings, [])
    grpc_threads.use_fewer()

    import uvloop

    from common import logs, tracing
    from services.gateway.serving import server
    from services.gateway.wiring import wire

    logs.configure("gateway", settings.log_level)
    tracing.configure("gateway", traced)

    async def serve() -> None:
        app = wire(settings)  # inside the loop, which gRPC channels are bound to
        serving = server(app, settings.host, settings.port, settings.shutdown_grace_s, drain_s=settings.drain_s)
        await serving.serve()

    uvloop.run(serve())


if __name__ == "__main__":
    main()
