"""Responses that callers wait for: as Server-Sent Events or whole. A caller who leaves stops the work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any, TypeVar

import structlog
from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from services.gateway import problems

log = structlog.get_logger()
T = TypeVar("T")
_UNWATCHED_S = 0.02  # work that ends sooner is not worth stopping
_HEARTBEAT_S = 15.0  # proxies close a connection after a minute of silence
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter keeps nginx from collecting events


def sse(name: str, data: Any) -> str:
    """Returns one event, without a name if that is empty. `data` is plain values and models.

    JSON leaves no line break in it.
    """

    def plain(value: Any) -> Any:
        return value.model_dump() if isinstance(value, BaseModel) else str(value)

    named = f"event: {name}\n" if name else ""
    return f"{named}data: {json.dumps(data, default=plain, ensure_ascii=False)}\n\n"


def with_events(*names: str) -> dict[int | str, dict[str, Any]]:
    """Returns what OpenAPI says of a route that can stream events of these names, if they have any.

    The schema is that of one event.
    """
    data: dict[str, Any] = {"data": {"type": "string", "description": "JSON"}}
    told = data | ({"event": {"enum": [*names]}} if names else {})
    schema = {"type": "object", "properties": told, "required": [*told]}
    return {HTTPStatus.OK.value: {"content": {"text/event-stream": {"schema": schema}}}}


def error_event(problem: problems.Problem) -> str:
    """Returns the event `error`."""
    return sse("error", problem.body())


async def streamed(
    request: Request, events: AsyncGenerator[str, None], failed: Callable[[problems.Problem], str] = error_event
) -> StreamingResponse:
    """Streams events, each the text that `sse` returns, as they come.

    After every 15 seconds without an event, a comment is sent. A failure before the first event or comment is an
    ordinary problem with its own status; a later one is the event that `failed` returns, which ends the stream.
    """
    events = with_heartbeats(events)
    first = await unless_caller_leaves(request, anext(events))

    async def text() -> AsyncIterator[str]:
        try:
            async with aclosing(events):  # the caller leaving ends the work
                yield first
                async for event in events:
                    yield event
        except Exception as error:
            problem = problems.of(error)
            if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                log.exception("stream crashed")
            yield failed(problem)

    return StreamingResponse(text(), media_type="text/event-stream", headers=_HEADERS)


async def with_heartbeats(
    events: AsyncGenerator[str, None], every_s: float = _HEARTBEAT_S
) -> AsyncGenerator[str, None]:
    """Yields the events, and a comment whenever none has come for `every_s` seconds."""
    async with aclosing(events):
        coming = asyncio.ensure_future(anext(events, ""))
        try:
            while True:
                done, _ = await asyncio.wait([coming], timeout=every_s)
                if not done:
                    yield ": waiting\n\n"
                elif event := coming.result():
                    coming = asyncio.ensure_future(anext(events, ""))
                    yield event
                else:
                    return
        finally:
            if not coming.done():
                coming.cancel()
                with suppress(Exception, asyncio.CancelledError):
                    await coming


async def unless_caller_leaves(request: Request, work: Awaitable[T]) -> T:
    """Waits for the work. Cancels it, and with it the models' work, when the caller closes the connection."""
    task = asyncio.current_task()
    assert task
    watchers: list[asyncio.Task[None]] = []

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    watching = asyncio.get_running_loop().call_later(
        _UNWATCHED_S, lambda: watchers.append(asyncio.create_task(watch()))
    )
    try:
        return await work
    except asyncio.CancelledError:
        if any(watcher.done() for watcher in watchers):
            task.uncancel()
            raise problems.CallerLeft from None
        raise
    finally:
        watching.cancel()
        for watcher in watchers:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
