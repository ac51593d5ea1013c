"""The shell around every gRPC service: health, reflection, metrics, request ids, errors, clean stop."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from common import context, metrics, tracing
from common.addresses import join
from common.errors import FIELD_KEY, GRPC_CODE, details, trailing
from common.files import refusal
from common.settings import ServiceSettings
from search_agent.errors import BoundaryError

log = structlog.get_logger()
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
PING_S = 10  # between the pings of a client's channel to ours
OURS = ((FIELD_KEY, ""),)
_NOT_AGAIN = (("grpc-retry-pushback-ms", "-1"),)  # what a field names is at fault; no client repeats the call by itself
_NO_FAULT = (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)


class _Calls(grpc.aio.ServerInterceptor):
    """Wraps each call: ids in, time and code out, typed errors to status codes, a bound on calls at once.

    A call that watches takes no place among those, and begins no trace.
    """

    def __init__(self, service: str, max_in_flight: int) -> None:
        self._service = service
        self._max = max_in_flight
        self._in_flight = 0

    @asynccontextmanager
    async def _serve(self, full_name: str, call: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        incoming = dict(call.invocation_metadata() or ())
        traceparent, attributes = context.traceparent_of(incoming), {"rpc.system.name": "grpc", "rpc.method": full_name}
        method = full_name.rpartition("/")[2]
        watches = method.startswith("Watch")  # it waits for news for as long as its caller likes
        with (
            tracing.NOBODY if watches and not traceparent else tracing.serve(full_name, traceparent, attributes) as span
        ):
            context.begin(incoming, span.traceparent)
            async with self._hold(method, 0 if watches else 1, call, span):
                yield

    @asynccontextmanager
    async def _hold(
        self, method: str, places: int, call: grpc.aio.ServicerContext, span: tracing.Span
    ) -> AsyncIterator[None]:
        started, code = time.perf_counter(), grpc.StatusCode.OK
        self._in_flight += places
        metrics.RPC_IN_FLIGHT.labels(self._service).set(self._in_flight)
        try:
            if places and self._in_flight > self._max:
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
                await call.abort(code, f"{self._service} is serving {self._max} calls, its limit", OURS)
            yield
        except BoundaryError as error:
            code = GRPC_CODE[error.failure]
            log.warning("call failed", method=method, code=code.name, error=str(error))
            await call.abort(code, details(error), trailing(error) + _NOT_AGAIN * bool(error.field))
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            raise
        except DecodeError:
            code = grpc.StatusCode.INVALID_ARGUMENT
            await call.abort(code, "the message cannot be decoded", OURS)
        except Exception as error:
            if said := refusal(error):
                code = grpc.StatusCode.UNAVAILABLE
                log.error("the disk refused", method=method, error=said)
                await call.abort(code, f"the disk of the {self._service}: {said}", OURS)
            code = grpc.StatusCode.INTERNAL
            log.exception("call crashed", method=method)
            await call.abort(code, f"{self._service} failed; its log has the details", OURS)
        finally:
            self._in_flight -= places
            metrics.RPC_IN_FLIGHT.labels(self._service).set(self._in_flight)
            elapsed = time.perf_counter() - started
            metrics.RPC_SECONDS.labels(self._service, method, code.name).observe(elapsed, tracing.exemplar())
            span.set({"rpc.response.status_code": code.name})
            if code not in _NO_FAULT:
                span.fail(code.name)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        method = details.method.lstrip("/")
        if handler is None or not method.startswith("v1."):  # health and reflection stay as they are
            return handler
        # Messages are decoded here, because gRPC itself calls one that cannot be decoded an INTERNAL error.
        decode = handler.request_deserializer
        if handler.unary_unary:

            async def unary(request: bytes, call: grpc.aio.ServicerContext) -> Any:
                async with self._serve(method, call):
                    return await handler.unary_unary(decode(request), call)

            return grpc.unary_unary_rpc_method_handler(unary, None, handler.response_serializer)

        if handler.stream_unary:

            async def uploaded(requests: AsyncIterator[bytes], call: grpc.aio.ServicerContext) -> Any:
                async with self._serve(method, call):
                    try:
                        return await handler.stream_unary((decode(each) async for each in requests), call)
                    except Exception:
                        async for _ in requests:  # gRPC's clients lose a status that comes while they send
                            pass
                        raise

            return grpc.stream_unary_rpc_method_handler(uploaded, None, handler.response_serializer)

        async def stream(request: bytes, call: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            async with self._serve(method, call), aclosing(handler.unary_stream(decode(request), call)) as responses:
                async for response in responses:
                    yield response

        return grpc.unary_stream_rpc_method_handler(stream, None, handler.response_serializer)


async def start(
    name: str,
    full_name: str,
    settings: ServiceSettings,
    register: Callable[[grpc.aio.Server], None],
    checks: health.aio.HealthServicer | None = None,
) -> tuple[grpc.aio.Server, int]:
    """Starts serving `full_name` ("v1.Retriever") and returns the server and its port (of use when 0).

    `checks` tells its health.
    """
    server = grpc.aio.server(
        interceptors=[_Calls(name, settings.max_in_flight)],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Calls may be silent for longer, and a server would take more than two pings meanwhile for an attack.
            ("grpc.http2.min_ping_interval_without_data_ms", PING_S * 1000 // 2),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server
        ],
    )
    register(server)
    checks = checks or health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for served in ("", full_name):
        await checks.set(served, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port(join(settings.host, settings.port))
    await server.start()
    return server, port


async def run(
    name: str,
    full_name: str,
    settings: ServiceSettings,
    register: Callable[[grpc.aio.Server], None],
    stop_telling: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM or SIGINT, then says so, takes calls for a moment, and lets those under way finish.

    `stop_telling` ends the streams that would go on as long as the service.
    """
    stop, checks = asyncio.Event(), health.aio.HealthServicer()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    try:
        start_http_server(settings.metrics_port, settings.host)
        server, port = await start(name, full_name, settings, register, checks)
    except (OSError, RuntimeError) as error:  # gRPC raises RuntimeError for a port in use
        at = f"{settings.host}, port {settings.port} and metrics port {settings.metrics_port}"
        raise SystemExit(f"{name}: cannot listen on {at}: {error}") from None
    log.info("serving", host=settings.host, port=port, metrics_port=settings.metrics_port)
    await stop.wait()
    log.info("stopping", grace_s=settings.shutdown_grace_s)
    await checks.enter_graceful_shutdown()
    await asyncio.sleep(settings.drain_s)
    stop_telling()
    await server.stop(settings.shutdown_grace_s)
