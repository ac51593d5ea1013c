"""The protocol's own client against a gateway over fakes, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import httpx
import pytest
from mcp import Client

from search_agent.types import Completion, Sampling, Span
from tests.integration.served import gateway
from tests.unit.gateway.rest import MOVES, Rest
from tests.waiting import LIMIT_S


def held(stack: Rest, turn: int) -> tuple[asyncio.Event, asyncio.Event, asyncio.Event]:
    """Holds the searcher in a turn.

    Returns the events of its having begun that turn, of letting it go on, and of its having been cancelled.
    """
    begun, go_on, cancelled = (asyncio.Event() for _ in range(3))
    moves = iter(enumerate(MOVES, 1))

    async def complete(spans: Sequence[Span], sampling: Sampling) -> Completion:
        number, text = next(moves)
        if number == turn:
            begun.set()
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return Completion(text, model="searcher@1")

    stack.searcher.complete = complete  # type: ignore[method-assign]
    return begun, go_on, cancelled


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_turn_is_told_while_the_next_one_runs(mode: Any) -> None:
    stack = Rest()
    _, go_on, _ = held(stack, turn=2)
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)
        go_on.set()  # had the first turn waited for the end, the second would wait for ever

    async with gateway(stack) as url, Client(f"{url}/mcp", mode=mode) as mcp:
        assert len((await mcp.list_tools()).tools) == 3
        asked = mcp.call_tool("answer", {"question": "Who?", "max_turns": 2}, progress_callback=hear)
        result = await asyncio.wait_for(asked, LIMIT_S)
    assert result.structured_content["answer"] == "an answer"
    assert result.structured_content["id"]
    assert told[0] == "searched for 'Who?': kept 1 of 3 passages"
    assert len(told) == 3


async def left(call: Coroutine[Any, Any, object], begun: asyncio.Event) -> None:
    """Makes a call, and leaves it once the searcher has begun."""
    task = asyncio.create_task(call)
    await asyncio.wait_for(begun.wait(), LIMIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_caller_who_leaves_stops_the_work(mode: Any) -> None:
    stack = Rest(max_in_flight=1)
    begun, _, cancelled = held(stack, turn=1)
    async with gateway(stack) as url:
        async with Client(f"{url}/mcp", mode=mode) as mcp:
            await left(mcp.call_tool("search", {"question": "Who?"}), begun)
        await asyncio.wait_for(cancelled.wait(), LIMIT_S)
        async with httpx.AsyncClient(base_url=url) as rest:  # the slot is free again
            assert (await rest.post("/v1/search", json={"question": "Who?", "method": "naive_rag"})).status_code == 200


async def test_a_connection_that_closes_stops_the_work() -> None:
    stack = Rest()
    begun, _, cancelled = held(stack, turn=1)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    call["params"] = {"name": "search", "arguments": {"question": "Who?"}}
    async with gateway(stack) as url, httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as plain:
        headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
        await left(plain.post("/mcp", json=call, headers=headers), begun)
        await asyncio.wait_for(cancelled.wait(), LIMIT_S)
