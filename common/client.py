"""The shell around every outgoing gRPC call: deadline, ids, and failures typed by boundary."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import suppress
from typing import Any

import grpc

from common import context, tracing
from common.errors import from_rpc
from common.server import MAX_MESSAGE_BYTES, PING_S
from search_agent.errors import BoundaryError, Failure

# gRPC asks again, with jitter and within the deadline, what changes nothing; a stream, before its first answer.
_REPEATABLE = (
    {"service": "v1.Retriever", "method": "Search"},
    {"service": "v1.Retriever", "method": "Embed"},
    {"service": "v1.Retriever", "method": "ListIndexes"},
    {"service": "v1.Retriever", "method": "ListChanges"},
    {"service": "v1.Generator", "method": "Generate"},
    {"service": "v1.Generator", "method": "GenerateStream"},
    {"service": "v1.Generator", "method": "ModelInfo"},
    {"service": "v1.Trainer", "method": "ListRuns"},
    {"service": "v1.Trainer", "method": "GetRun"},
)
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_OPTIONS = (
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": _REPEATABLE, "retryPolicy": _RETRY}]})),
    ("grpc.enable_http_proxy", 0),  # our services are on our own network
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A peer that is gone without a word is noticed while a call waits for it. The timeout is TCP's too: what it has not
    # acknowledged by then was lost with the network between.
    ("grpc.keepalive_time_ms", PING_S * 1000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # It may come back at another address, and one that nobody has any more takes no connection and tells nothing.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # this bounds an attempt too, which may take 20 s otherwise
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def connect(target: str) -> grpc.aio.Channel:
    """Returns a channel to HOST:PORT that notices a dead peer and reconnects within a second or two."""
    return grpc.aio.insecure_channel(target, options=_OPTIONS)


async def call(method: Any, request: Any, timeout_s: float, boundary: type[BoundaryError]) -> Any:
    """Makes a unary call, which ends when the request being served has no time left.

    Raises `boundary` with the failure that the status code stands for.
    """
    with _calling(method) as span:
        try:
            metadata = _metadata(span)
            return await method(request, timeout=context.time_left(timeout_s), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _failed(error, boundary, span) from error


async def stream(
    method: Any, request: Any, timeout_s: float, boundary: type[BoundaryError]
) -> AsyncGenerator[Any, None]:
    """Reads a server stream. Leaving it early cancels the call at the server. Raises `boundary`, as `call` does."""
    with _calling(method) as span:
        metadata = _metadata(span)
        responses = method(request, timeout=context.time_left(timeout_s), metadata=metadata)
        try:
            async for response in responses:
                yield response
        except grpc.aio.AioRpcError as error:
            raise _failed(error, boundary, span) from error
        finally:
            responses.cancel()


async def upload(method: Any, requests: AsyncIterable[Any], timeout_s: float, boundary: type[BoundaryError]) -> Any:
    """Sends a client stream and returns its answer. Raises `boundary`, as `call` does.

    Where `requests` raises, the call is cancelled and the error goes on to the caller.
    """
    with _calling(method) as span:
        call = method(timeout=context.time_left(timeout_s), metadata=_metadata(span))
        try:
            with suppress(asyncio.InvalidStateError):  # the server has answered before the end
                async for request in requests:
                    await call.write(request)
                await call.done_writing()
            return await call
        except grpc.aio.AioRpcError as error:
            raise _failed(error, boundary, span) from error
        finally:
            call.cancel()


def _calling(method: Any) -> tracing.Span:
    """Returns the span of a call of a stub's method."""
    name = getattr(method, "_method", b"").decode().lstrip("/")
    return tracing.span(name, {"rpc.system.name": "grpc", "rpc.method": name}, "client")


def _metadata(span: tracing.Span) -> grpc.aio.Metadata:
    """Returns what a call carries, as gRPC itself holds it: it takes long over a tuple."""
    return grpc.aio.Metadata(*context.metadata(span.traceparent))


def _failed(error: grpc.aio.AioRpcError, boundary: type[BoundaryError], span: tracing.Span) -> BoundaryError:
    span.set({"rpc.response.status_code": error.code().name})
    failure = from_rpc(error, boundary)
    if failure.failure is Failure.TIMEOUT and not context.time_left(1):
        failure.message = "the time for the whole request is over"
    return failure
