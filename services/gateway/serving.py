"""The HTTP server around the application."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADER_BYTES = 16_384
_HEADERS_S = 15.0


class ImpatientProtocol(H11Protocol):
    """Closes a connection on which a request's headers do not come in time; uvicorn would wait without end."""

    headers_s = _HEADERS_S
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait(self) -> None:
        if self.cycle and not self.cycle.response_complete:  # the headers are there
            self._stop_waiting()
        elif not self._late:
            self._late = self.loop.call_later(self.headers_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None


def server(
    app: Any, host: str, port: int, grace_s: int, protocol: type[ImpatientProtocol] = ImpatientProtocol
) -> uvicorn.Server:
    """Returns a server that gives requests under way `grace_s` seconds at its stop."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        log_config=None,
        access_log=False,  # every question is logged once, with its request id
        server_header=False,
        timeout_graceful_shutdown=grace_s,
    )
    return uvicorn.Server(config)
