"""Backends that know who asks: an index must be open to the caller, and tokens are counted for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from common.indexes import Change, Edit, NewIndex
from search_agent.types import Completion, IndexInfo, Message, ModelInfo, Rankings, Retrieval, Sampling, Span
from search_agent.world import Searcher, Writer
from services.gateway import caller
from services.gateway.caller import Caller, Forbidden
from services.gateway.capacity import Capacity
from services.gateway.limits import Meter
from services.gateway.player import Retrieving


class GuardedRetriever:
    """Shows callers only their own indexes. If the default one is not theirs, their first one is.

    Raises Forbidden for another index.
    """

    def __init__(self, retriever: Retrieving) -> None:
        self._retriever = retriever

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        index = await self._allowed(how.index)
        return await self._retriever.search(queries, how if index == how.index else replace(how, index=index))

    async def embed(self, texts: Sequence[str], index: str, as_passages: bool) -> list[bytes]:
        return await self._retriever.embed(texts, await self._allowed(index), as_passages)

    async def indexes(self) -> Sequence[IndexInfo]:
        who = caller.current()
        served = await self._retriever.indexes()
        if not who.indexes:
            return served
        theirs = [index for index in served if who.may_use(index.name)]
        if not theirs:
            raise Forbidden(f"none of this key's indexes is served: {', '.join(who.indexes)}", missing_index="")
        if not any(index.is_default for index in theirs):
            theirs[0] = replace(theirs[0], is_default=True)
        return theirs

    async def create_index(self, new: NewIndex) -> IndexInfo:
        caller.current().check_index(new.name)
        return await self._retriever.create_index(new)

    async def delete_index(self, index: str) -> None:
        caller.current().check_index(index)
        await self._retriever.delete_index(index)

    async def change_passages(self, index: str, edits: AsyncIterable[Edit]) -> Change:
        caller.current().check_index(index)
        return await self._retriever.change_passages(index, edits)

    async def changes(self, index: str) -> Sequence[Change]:
        caller.current().check_index(index)
        return await self._retriever.changes(index)

    async def roll_back(self, index: str, version: str) -> IndexInfo:
        caller.current().check_index(index)
        return await self._retriever.roll_back(index, version)

    async def _allowed(self, index: str) -> str:
        """Returns the index to ask: for an empty name, the caller's default one."""
        who = caller.current()
        if not who.indexes:
            return index
        index = index or next(each.name for each in await self.indexes() if each.is_default)
        who.check_index(index)
        return index


class AdmittedRetriever(GuardedRetriever):
    """Admits direct requests to the retriever only if they should finish in time. Also raises TooBusy."""

    def __init__(self, retriever: Retrieving, capacity: Capacity) -> None:
        super().__init__(retriever)
        self._capacity = capacity

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        name, who = "rerank" if how.rerank else "retrieve", (*queries, repr(how))
        with self._capacity.work(name, who, len(queries), how.index):
            return await super().search(queries, how)

    async def embed(self, texts: Sequence[str], index: str, as_passages: bool) -> list[bytes]:
        with self._capacity.work("embed", (*texts, index), len(texts), index):
            return await super().embed(texts, index, as_passages)


_CHARS_A_TOKEN = 4  # about, in English
_RECENT = 0.2  # the weight of the newest text in the mean pace


class _Tally:
    """Counts the tokens of one model's texts for the caller.

    Nobody tells the tokens of a text that the caller leaves, so they are estimated. The prompt's come from its length.
    Those written are one for each piece that has come; of a text that comes whole, what the model writes in that time.
    """

    def __init__(self, meter: Meter, clock: Callable[[], float]) -> None:
        self._meter, self._clock = meter, clock
        self._pace = 0.0  # tokens written a second

    async def whole(self, text: Awaitable[Completion], prompt: Iterable[str], sampling: Sampling) -> Completion:
        who, began = caller.current(), self._clock()
        try:
            completion = await text
        except asyncio.CancelledError:
            written = round(self._pace * (self._clock() - began))
            await self.left(who, prompt, min(written, sampling.max_tokens))
            raise
        if completion.completion_tokens and (took_s := self._clock() - began):
            pace = completion.completion_tokens / took_s
            self._pace += (_RECENT if self._pace else 1) * (pace - self._pace)
        await self.told(who, completion)
        return completion

    async def told(self, who: Caller, completion: Completion) -> None:
        await self._meter.tokens(who, completion.tokens)

    async def left(self, who: Caller, prompt: Iterable[str], written: int) -> None:
        await self._meter.tokens(who, sum(map(len, prompt)) // _CHARS_A_TOKEN + written)


class MeteredSearcher:
    """Counts the searcher's tokens for the caller."""

    def __init__(self, searcher: Searcher, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        self._searcher, self._tally = searcher, _Tally(meter, clock)

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        text = self._searcher.complete(spans, sampling)
        return await self._tally.whole(text, (span.text for span in spans), sampling)

    async def info(self) -> ModelInfo:
        return await self._searcher.info()


class MeteredGenerator:
    """Counts the generator's tokens for the caller."""

    def __init__(self, generator: Writer, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        self._generator, self._tally = generator, _Tally(meter, clock)

    async def write(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        text = self._generator.write(messages, sampling)
        return await self._tally.whole(text, (message.content for message in messages), sampling)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        who, pieces, whole = caller.current(), 0, False
        try:
            async for piece in self._generator.stream(messages, sampling):
                pieces, whole = pieces + 1, bool(piece.finish_reason)
                await self._tally.told(who, piece)
                yield piece
        except (GeneratorExit, asyncio.CancelledError):
            if not whole:
                await self._tally.left(who, (message.content for message in messages), pieces)
            raise

    async def info(self) -> ModelInfo:
        return await self._generator.info()
