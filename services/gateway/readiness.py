"""Readiness: whether each backend does real work, a search or a token."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from common import context
from common.keys import Limits
from search_agent.errors import Failure, GeneratorError
from search_agent.types import Author, Message, Retrieval, Sampling, Span
from search_agent.world import Searcher, Writer
from services.gateway import caller
from services.gateway.caller import Caller
from services.gateway.player import Retrieving

_FRESH_S = 10.0  # a success counts for so long
_LONGEST_S = 30.0  # a backend that has work to do may take so long
_NOBODY = Caller("readiness", frozenset(), limits=Limits(0, 0, 0))  # whose tokens are counted for no key
_TEXT, _TOKEN = "Hello", Sampling(max_tokens=1)


class Probe:
    """Has a backend do real work, but not again for ten seconds after a success."""

    def __init__(self, work: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._clock = work, clock
        self._began_at, self._worked_at = 0.0, -math.inf
        self._task: asyncio.Task[None] | None = None

    async def check(self, wait_s: float) -> None:
        """Returns if the backend works, or worked recently and is busy. Raises BoundaryError."""
        if self._clock() - self._worked_at < _FRESH_S:
            return
        if self._task is None or self._task.done():
            self._began_at, self._task = self._clock(), asyncio.create_task(self._run())
        done, _ = await asyncio.wait([self._task], timeout=wait_s)
        if done:
            self._task.result()
        elif self._worked_at == -math.inf or self._clock() - self._began_at > _LONGEST_S:
            raise GeneratorError(Failure.TIMEOUT, "it does not work")

    async def _run(self) -> None:
        caller.set_current(_NOBODY)
        context.begin_time(_LONGEST_S)  # callers who joined later wait for it too
        await self._work()
        self._worked_at = self._clock()


def search(retriever: Retrieving) -> Probe:
    """Returns a probe that searches the default index for a word, unless that is another server, which may be down."""

    async def work() -> None:
        if any(index.is_default and index.modes for index in await retriever.indexes()):
            await retriever.search([_TEXT], Retrieval(1))

    return Probe(work)


def turn(searcher: Searcher) -> Probe:
    """Returns a probe that has a searcher write a token."""

    async def work() -> None:
        if _is_ours((await searcher.info()).engine):
            await searcher.complete([Span(Author.ENVIRONMENT, _TEXT)], _TOKEN)

    return Probe(work)


def answer(generator: Writer) -> Probe:
    """Returns a probe that has a generator write a token."""

    async def work() -> None:
        if _is_ours((await generator.info()).engine):
            await generator.write([Message("user", _TEXT)], _TOKEN)

    return Probe(work)


def _is_ours(engine: str) -> bool:
    return engine != "openai"  # tokens of another's endpoint cost money, and its model may think before the first
