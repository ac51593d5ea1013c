"""`python -m services.gateway`: serves the REST contract."""

from __future__ import annotations

from services.common.settings import load
from services.gateway.settings import GatewaySettings


def main() -> None:
    settings = load(GatewaySettings)

    import uvicorn

    from services.common import logs
    from services.gateway.wiring import wire

    logs.configure("gateway", settings.log_level)
    uvicorn.run(
        wire(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # every question is logged once, with its request id
        server_header=False,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_grace_s)),
    )


if __name__ == "__main__":
    main()
