"""Tokens of the generator are counted for the caller, also those of an answer that they leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from common.keys import Limits
from search_agent.errors import Failure, GeneratorError
from search_agent.testing import EchoGenerator
from search_agent.types import Completion, FinishReason, Message, Sampling
from services.gateway.caller import ANYBODY
from services.gateway.counters import MemoryCounters
from services.gateway.guarded import MeteredGenerator
from services.gateway.limits import Meter

PROMPT = [Message("user", "x" * 400)]


class Writer(EchoGenerator):
    """Writes two pieces, then waits for `go_on`, then fails or ends."""

    def __init__(self) -> None:
        super().__init__("")
        self.waits, self.go_on, self.fails = asyncio.Event(), asyncio.Event(), False

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        yield Completion("one", None)
        yield Completion(" two", None)
        self.waits.set()
        await self.go_on.wait()
        if self.fails:
            raise GeneratorError(Failure.BROKEN, "broken")
        yield Completion("", FinishReason.STOP, prompt_tokens=80, completion_tokens=2)


class Tab:
    """A generator whose tokens are counted."""

    def __init__(self) -> None:
        self.writer, self._counters = Writer(), MemoryCounters()
        meter = Meter(self._counters, Limits(tokens_per_day=1000))
        self.generator = MeteredGenerator(self.writer, meter)

    async def drain(self) -> None:
        async for _ in self.generator.stream(PROMPT, Sampling(8)):
            pass

    async def write(self) -> None:
        assert (await self.generator.write(PROMPT, Sampling(8))).text == "one two"

    async def used(self) -> int:
        return (await self._counters.spend(f"{ANYBODY.id}:tokens", 0, 1000, 24 * 3600)).used


@pytest.mark.parametrize("way", ["drain", "write"])
async def test_a_whole_answer_costs_what_the_model_says(way: str) -> None:
    tab = Tab()
    tab.writer.go_on.set()
    await getattr(tab, way)()
    assert await tab.used() == 82


async def test_an_answer_that_is_left_costs_its_prompt_and_pieces() -> None:
    tab = Tab()
    stream = tab.generator.stream(PROMPT, Sampling(8))
    await anext(stream)
    await stream.aclose()
    assert await tab.used() == 100 + 1


async def test_an_answer_that_is_cancelled_costs_its_prompt_and_pieces() -> None:
    tab = Tab()
    task = asyncio.create_task(tab.drain())
    await tab.writer.waits.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert await tab.used() == 100 + 2


async def test_a_whole_text_that_is_cancelled_costs_its_prompt() -> None:
    tab = Tab()
    task = asyncio.create_task(tab.generator.write(PROMPT, Sampling(8)))
    await tab.writer.waits.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert await tab.used() == 100


@pytest.mark.parametrize("way", ["drain", "write"])
async def test_a_failed_answer_costs_nothing(way: str) -> None:
    tab = Tab()
    tab.writer.fails = True
    tab.writer.go_on.set()
    with pytest.raises(GeneratorError):
        await getattr(tab, way)()
    assert await tab.used() == 0
