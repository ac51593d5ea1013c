"""The request being served: its id and W3C trace context, carried across gRPC as metadata, and the time it has."""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

import structlog

REQUEST_ID = "request-id"
TRACEPARENT = "traceparent"

_VALID = {
    REQUEST_ID: re.compile(r"[A-Za-z0-9._:-]{1,128}"),
    TRACEPARENT: re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
}
_current: ContextVar[dict[str, str] | None] = ContextVar("request_context", default=None)


@dataclass(slots=True)
class Time:
    """The time of a request, which all its calls share. `ends_at` is on the monotonic clock."""

    ends_at: float = math.inf


_ENDLESS = Time()
_time: ContextVar[Time] = ContextVar("request_time", default=_ENDLESS)


def traceparent_of(incoming: Mapping[str, str]) -> str:
    """Returns the caller's trace context, empty if there is none or it is malformed."""
    return value if _VALID[TRACEPARENT].fullmatch(value := incoming.get(TRACEPARENT, "")) else ""


def begin(incoming: Mapping[str, str], traceparent: str = "") -> dict[str, str]:
    """Adopts the caller's ids where they are well formed, makes new ones where not.

    `traceparent` is that of the request's own span, if it has one.
    """
    if traceparent:
        incoming = {**incoming, TRACEPARENT: traceparent}
    random = secrets.token_hex(32)
    made = {
        REQUEST_ID: random[:16],
        TRACEPARENT: f"00-{random[16:48]}-{random[48:]}-00",  # nobody records it
    }
    ids = {key: value if _VALID[key].fullmatch(value := incoming.get(key, "")) else made[key] for key in made}
    _current.set(ids)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=ids[REQUEST_ID], trace_id=ids[TRACEPARENT].split("-")[1])
    return ids


def metadata(traceparent: str = "") -> tuple[tuple[str, str], ...]:
    """Returns the metadata that an outgoing call carries. `traceparent` is that of its span, if it has one."""
    ids = _current.get() or {}
    return tuple({**ids, TRACEPARENT: traceparent}.items() if traceparent else ids.items())


def request_id() -> str:
    """Returns the id of the request being served, empty outside one."""
    return (_current.get() or {}).get(REQUEST_ID, "")


def trace_id() -> str:
    """Returns the id of the trace that the request being served belongs to, empty outside one."""
    return (_current.get() or {}).get(TRACEPARENT, "--").split("-")[1]


def begin_time(limit_s: float) -> Time:
    """Gives the request being served that many seconds from now on, for all its calls together."""
    time_ = Time(time.monotonic() + limit_s)
    _time.set(time_)
    return time_


def ends_at() -> float:
    """Returns the monotonic time at which the request being served runs out of time."""
    return _time.get().ends_at


def time_left(most_s: float) -> float:
    """Returns the seconds that a call may take: `most_s`, or what the request has left if that is less."""
    return max(0.0, min(most_s, ends_at() - time.monotonic()))
