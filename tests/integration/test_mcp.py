"""The protocol's own client against a gateway over fakes, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from mcp import Client

from search_agent.types import Completion, Sampling, Span
from tests.integration.served import gateway
from tests.unit.gateway.rest import MOVES, Rest


def held(stack: Rest, turn: int) -> tuple[asyncio.Event, asyncio.Event]:
    """Holds the searcher in a turn. Returns the events of letting it go on, and of its having been cancelled."""
    go_on, cancelled, moves = asyncio.Event(), asyncio.Event(), iter(enumerate(MOVES, 1))

    async def complete(spans: Sequence[Span], sampling: Sampling) -> Completion:
        number, text = next(moves)
        if number == turn:
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return Completion(text, model="searcher@1")

    stack.searcher.complete = complete  # type: ignore[method-assign]
    return go_on, cancelled


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_turn_is_told_while_the_next_one_runs(mode: Any) -> None:
    stack = Rest()
    go_on, _ = held(stack, turn=2)
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)
        go_on.set()  # had the first turn waited for the end, the second would wait for ever

    async with gateway(stack) as url, Client(f"{url}/mcp", mode=mode) as mcp:
        assert len((await mcp.list_tools()).tools) == 3
        asked = mcp.call_tool("answer", {"question": "Who?", "max_turns": 2}, progress_callback=hear)
        result = await asyncio.wait_for(asked, 20)
    assert result.structured_content["answer"] == "an answer"
    assert result.structured_content["id"]
    assert told[0] == "searched for 'Who?': kept 1 of 3 passages"
    assert len(told) == 3


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_caller_who_leaves_stops_the_work(mode: Any) -> None:
    stack = Rest(max_in_flight=1)
    _, cancelled = held(stack, turn=1)
    async with gateway(stack) as url:
        async with Client(f"{url}/mcp", mode=mode) as mcp:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(mcp.call_tool("search", {"question": "Who?"}), 0.5)
        await asyncio.wait_for(cancelled.wait(), 10)
        async with httpx.AsyncClient(base_url=url) as rest:  # the slot is free again
            assert (await rest.post("/v1/search", json={"question": "Who?", "method": "naive_rag"})).status_code == 200


async def test_a_connection_that_closes_stops_the_work() -> None:
    stack = Rest()
    _, cancelled = held(stack, turn=1)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    call["params"] = {"name": "search", "arguments": {"question": "Who?"}}
    async with gateway(stack) as url, httpx.AsyncClient(base_url=url) as plain:
        headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
        with pytest.raises(httpx.ReadTimeout):
            await plain.post("/mcp", json=call, headers=headers, timeout=0.5)
        await asyncio.wait_for(cancelled.wait(), 10)
