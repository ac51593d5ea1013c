"""The one table between failures and gRPC status codes."""

from __future__ import annotations

import grpc

from search_agent.errors import BoundaryError, Failure

GRPC_CODE = {
    Failure.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Failure.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Failure.UNSUPPORTED: grpc.StatusCode.FAILED_PRECONDITION,
    Failure.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Failure.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Failure.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Failure.BROKEN: grpc.StatusCode.INTERNAL,
}
_FAILURE = {code: failure for failure, code in GRPC_CODE.items()} | {
    grpc.StatusCode.UNIMPLEMENTED: Failure.UNSUPPORTED,
}
FIELD_KEY = "error-field"  # trailing metadata that names the field at fault


def from_rpc(error: grpc.aio.AioRpcError, boundary: type[BoundaryError]) -> BoundaryError:
    """The failed call as an error of its boundary."""
    trailing = dict(error.trailing_metadata() or ())
    failure = _FAILURE.get(error.code(), Failure.BROKEN)
    return boundary(failure, error.details() or error.code().name, trailing.get(FIELD_KEY, ""))
