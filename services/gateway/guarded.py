"""Backends that know who asks: an index must be open to the caller, and tokens are counted for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import replace

from common.indexes import Change, Edit, NewIndex
from search_agent.types import Completion, IndexInfo, Message, ModelInfo, Rankings, Retrieval, Sampling, Span
from search_agent.world import Searcher, Writer
from services.gateway import caller
from services.gateway.caller import Forbidden
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
        return await self._retriever.search(queries, replace(how, index=await self._allowed(how.index)))

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


class MeteredSearcher:
    """Counts the searcher's tokens for the caller."""

    def __init__(self, searcher: Searcher, meter: Meter) -> None:
        self._searcher, self._meter = searcher, meter

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        completion = await self._searcher.complete(spans, sampling)
        await self._meter.tokens(caller.current(), completion.tokens)
        return completion

    async def info(self) -> ModelInfo:
        return await self._searcher.info()


_CHARS_A_TOKEN = 4  # about, in English


class MeteredGenerator:
    """Counts the generator's tokens for the caller.

    Nobody tells the tokens of an answer that the caller leaves early. They are estimated: the prompt's from its length,
    and one for each piece that has come.
    """

    def __init__(self, generator: Writer, meter: Meter) -> None:
        self._generator, self._meter = generator, meter

    async def write(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        who = caller.current()
        try:
            completion = await self._generator.write(messages, sampling)
        except asyncio.CancelledError:
            await self._meter.tokens(who, _tokens_of(messages))
            raise
        await self._meter.tokens(who, completion.tokens)
        return completion

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        who, pieces, whole = caller.current(), 0, False
        try:
            async for piece in self._generator.stream(messages, sampling):
                pieces, whole = pieces + 1, bool(piece.finish_reason)
                await self._meter.tokens(who, piece.tokens)
                yield piece
        except (GeneratorExit, asyncio.CancelledError):
            if pieces and not whole:
                await self._meter.tokens(who, _tokens_of(messages) + pieces)
            raise

    async def info(self) -> ModelInfo:
        return await self._generator.info()


def _tokens_of(messages: Sequence[Message]) -> int:
    """Returns about how many tokens a prompt has."""
    return sum(len(message.content) for message in messages) // _CHARS_A_TOKEN
