"""Tokens of the models are counted for the caller, also those of a text that they leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import pytest

from common.keys import Limits
from search_agent.errors import Failure, GeneratorError
from search_agent.testing import EchoGenerator, ScriptedPolicy
from search_agent.types import Author, Completion, FinishReason, Message, Sampling, Span
from services.gateway.caller import ANYBODY
from services.gateway.counters import MemoryCounters
from services.gateway.guarded import MeteredGenerator, MeteredSearcher
from services.gateway.limits import Meter

PROMPT = [Message("user", "x" * 400)]


class Writer(EchoGenerator):
    """Writes two pieces, then waits for `go_on`, then fails or ends."""

    def __init__(self) -> None:
        super().__init__("")
        self.waits, self.go_on, self.fails = asyncio.Event(), asyncio.Event(), False
        self.now_s = self._takes_s = 0.0

    def takes(self, seconds: float) -> None:
        """Has the next texts take so long until they wait."""
        self._takes_s = seconds

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        yield Completion("one", None)
        yield Completion(" two", None)
        self.now_s += self._takes_s
        self.waits.set()
        await self.go_on.wait()
        if self.fails:
            raise GeneratorError(Failure.BROKEN, "broken")
        yield Completion("", FinishReason.STOP, prompt_tokens=80, completion_tokens=2)


class Tab:
    """A generator whose tokens are counted."""

    def __init__(self, writer: Writer | None = None) -> None:
        self.writer, self._counters = writer or Writer(), MemoryCounters()
        self.meter = Meter(self._counters, Limits(tokens_per_day=1000))
        self.generator = MeteredGenerator(self.writer, self.meter, lambda: self.writer.now_s)

    async def drain(self) -> None:
        async for _ in self.generator.stream(PROMPT, Sampling(8)):
            pass

    async def write(self) -> None:
        assert (await self.generator.write(PROMPT, Sampling(8))).text == "one two"

    async def cancel(self, text: Coroutine[Any, Any, object]) -> None:
        """Begins a text, and leaves it when the writer waits."""
        task = asyncio.create_task(text)
        await self.writer.waits.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

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
    await tab.cancel(tab.drain())
    assert await tab.used() == 100 + 2


async def test_an_answer_that_is_cancelled_before_its_first_piece_costs_its_prompt() -> None:
    class Silent(Writer):
        async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
            self.waits.set()
            await self.go_on.wait()
            yield Completion("", None)

    tab = Tab(Silent())
    await tab.cancel(tab.drain())
    assert await tab.used() == 100


async def test_a_whole_text_that_is_cancelled_costs_its_prompt() -> None:
    tab = Tab()
    await tab.cancel(tab.write())
    assert await tab.used() == 100


@pytest.mark.parametrize(("seconds", "written"), [(0.5, 5), (10, 8)], ids=["some", "no more than were asked for"])
async def test_a_whole_text_that_is_cancelled_costs_what_was_written_in_that_time(seconds: float, written: int) -> None:
    tab = Tab()
    tab.writer.takes(0.2)  # 2 tokens: 10 a second
    tab.writer.go_on.set()
    await tab.write()
    before = await tab.used()
    tab.writer.go_on.clear()
    tab.writer.waits.clear()
    tab.writer.takes(seconds)
    await tab.cancel(tab.write())
    assert await tab.used() - before == 100 + written


async def test_a_turn_of_the_searcher_that_is_cancelled_costs_its_prompt() -> None:
    class Waiting(ScriptedPolicy):
        async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
            tab.writer.waits.set()
            await asyncio.Event().wait()
            raise AssertionError

    tab = Tab()
    searcher = MeteredSearcher(Waiting([]), tab.meter)
    await tab.cancel(searcher.complete([Span(Author.ENVIRONMENT, "x" * 200)], Sampling(8)))
    assert await tab.used() == 50


@pytest.mark.parametrize("way", ["drain", "write"])
async def test_a_failed_answer_costs_nothing(way: str) -> None:
    tab = Tab()
    tab.writer.fails = True
    tab.writer.go_on.set()
    with pytest.raises(GeneratorError):
        await getattr(tab, way)()
    assert await tab.used() == 0
