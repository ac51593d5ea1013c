"""The one table between failures and gRPC status codes."""

from __future__ import annotations

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
# What gRPC itself reports. It runs out of resources for a message above the limit, which no later call would help.
_TRANSPORT = {
    grpc.StatusCode.UNAVAILABLE: (Failure.UNAVAILABLE, "it cannot be reached"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Failure.TIMEOUT, "it did not answer in time"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (Failure.INVALID, "the request or its answer is too large; ask for less"),
    grpc.StatusCode.UNIMPLEMENTED: (Failure.UNSUPPORTED, "it does not have this call"),
}


def from_rpc(error: grpc.aio.AioRpcError, boundary: type[BoundaryError]) -> BoundaryError:
    """Returns the failed call as an error of its boundary."""
    trailing = dict(error.trailing_metadata() or ())
    if FIELD_KEY in trailing:  # a service of ours said so
        failure = _FAILURE.get(error.code(), Failure.BROKEN)
        return boundary(failure, error.details() or "", trailing[FIELD_KEY], float(trailing.get(EXCESS_KEY, 0)))
    # gRPC's own words tell addresses, which are for the log (as the cause) and not for callers
    unknown = (Failure.BROKEN, f"the call failed: {error.code().name}")
    return boundary(*_TRANSPORT.get(error.code(), unknown))
