"""The one table between failures and gRPC status codes."""

from __future__ import annotations

import string
from urllib.parse import quote, unquote

import grpc

from search_agent.errors import BoundaryError, Failure

GRPC_CODE = {
    Failure.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Failure.TOO_LONG: grpc.StatusCode.OUT_OF_RANGE,
    Failure.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Failure.UNSUPPORTED: grpc.StatusCode.FAILED_PRECONDITION,
    Failure.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Failure.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Failure.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Failure.BROKEN: grpc.StatusCode.INTERNAL,
}
_FAILURE = {code: failure for failure, code in GRPC_CODE.items()}
# Trailing metadata of every failure that a service of ours reports: the request's field at fault, or "".
FIELD_KEY = "error-field"
EXCESS_KEY = "error-excess"  # beside it: how many times as long as its room a prompt is
_FIELD_CHARS = 200
_MESSAGE_BYTES = 1000  # clients take 8 KB of metadata, in which three bytes stand for one that is not ASCII
_VISIBLE = string.punctuation.replace("%", "")
# What gRPC itself reports. It runs out of resources for a message above the limit, which no later call would help.
_TRANSPORT = {
    grpc.StatusCode.UNAVAILABLE: (Failure.UNAVAILABLE, "it cannot be reached"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Failure.TIMEOUT, "it did not answer in time"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (Failure.INVALID, "the request or its answer is too large; ask for less"),
    grpc.StatusCode.UNIMPLEMENTED: (Failure.UNSUPPORTED, "it does not have this call"),
}


def details(error: BoundaryError) -> str:
    """Returns the error's message, which may quote a text of any length, cut to what metadata holds."""
    return error.message.encode(errors="replace")[:_MESSAGE_BYTES].decode(errors="ignore")


def trailing(error: BoundaryError) -> tuple[tuple[str, str], ...]:
    """Returns the metadata that tells the error, for `from_rpc`.

    A field may be a key of the caller's and hold any text; metadata takes visible ASCII, and not much of it.
    """
    field = quote(error.field[:_FIELD_CHARS], safe=_VISIBLE, errors="replace")
    return ((FIELD_KEY, field), (EXCESS_KEY, str(error.excess)))


def from_rpc(error: grpc.aio.AioRpcError, boundary: type[BoundaryError]) -> BoundaryError:
    """Returns the failed call as an error of its boundary."""
    told = dict(error.trailing_metadata() or ())
    if FIELD_KEY in told:  # a service of ours said so
        failure = _FAILURE.get(error.code(), Failure.BROKEN)
        field, excess = unquote(str(told[FIELD_KEY])), float(told.get(EXCESS_KEY, 0))
        return boundary(failure, error.details() or "", field, excess)
    # gRPC's own words tell addresses, which are for the log (as the cause) and not for callers
    unknown = (Failure.BROKEN, f"the call failed: {error.code().name}")
    return boundary(*_TRANSPORT.get(error.code(), unknown))
