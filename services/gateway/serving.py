"""The HTTP server around the application."""

from __future__ import annotations

import asyncio
import time
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEADER_BYTES = 16_384
_HEADERS_S = 15.0
# Longer than clients keep an idle connection, for a request that crosses the close is lost: httpx 5 s, proxies 60 s.
_IDLE_S = 75


class ImpatientProtocol(HttpToolsProtocol):
    """Closes a connection if a request's headers are too long or do not arrive in time, which uvicorn does not."""

    headers_s = _HEADERS_S
    _late: asyncio.TimerHandle | None = None
    _unread = 0  # bytes that have come since the end of headers, or a piece of a body: of headers or trailers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self._unread > _HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")
        self._wait()

    def on_headers_complete(self) -> None:
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

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


class DrainingServer(uvicorn.Server):
    """On the signal to stop, first reports it through readiness, and closes its port when no request is in progress.

    The port stays open for at least `drain_s`, and for at most `grace_s` after that. A second signal closes it at once.
    """

    def __init__(self, config: uvicorn.Config, state: Any, drain_s: float, grace_s: float) -> None:
        super().__init__(config)
        self._state, self._drain_s, self._grace_s = state, drain_s, grace_s
        self._stops_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stops_at:
            super().handle_exit(sig, frame)
            return
        self._state.stops = True
        self._stops_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        if self._stops_at and time.monotonic() >= self._stops_at:
            self.should_exit |= not self.server_state.tasks or time.monotonic() >= self._stops_at + self._grace_s
        return await super().on_tick(counter)


def server(
    app: Any,
    host: str,
    port: int,
    grace_s: float,
    protocol: type[ImpatientProtocol] = ImpatientProtocol,
    drain_s: float = 0.0,
) -> uvicorn.Server:
    """Returns a server of a FastAPI application that gives requests under way `grace_s` seconds at its stop."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        log_config=None,
        access_log=False,  # every question is logged once, with its request id
        server_header=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=1,  # what is under way had its time before
    )
    return DrainingServer(config, app.state, drain_s, grace_s)
