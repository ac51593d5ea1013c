"""The request id and W3C trace context of the request being served, carried across gRPC as metadata."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar

import structlog

REQUEST_ID = "request-id"
TRACEPARENT = "traceparent"

_VALID = {
    REQUEST_ID: re.compile(r"[A-Za-z0-9._:-]{1,128}"),
    TRACEPARENT: re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
}
_current: ContextVar[dict[str, str] | None] = ContextVar("request_context", default=None)


def begin(incoming: Mapping[str, str]) -> dict[str, str]:
    """Adopts the caller's ids where they are well formed, makes new ones where not."""
    made = {
        REQUEST_ID: secrets.token_hex(8),
        TRACEPARENT: f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
    }
    ids = {key: value if _VALID[key].fullmatch(value := incoming.get(key, "")) else made[key] for key in made}
    _current.set(ids)
    structlog.contextvars.bind_contextvars(request_id=ids[REQUEST_ID], trace_id=ids[TRACEPARENT].split("-")[1])
    return ids


def metadata() -> tuple[tuple[str, str], ...]:
    """Returns the metadata that an outgoing call carries."""
    return tuple((_current.get() or {}).items())


def request_id() -> str:
    """Returns the id of the request being served, empty outside one."""
    return (_current.get() or {}).get(REQUEST_ID, "")
