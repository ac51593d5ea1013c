"""Shards: one index that several retrievers hold in parts. All of them are asked, and their rankings merged."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from common.addresses import model_at
from common.backends import GrpcRetriever
from search_agent.errors import Failure, RetrieverError
from search_agent.types import IndexInfo, Mode, Passage, Rankings, Retrieval
from search_agent.world import index_named
from services.retriever.fusion import DEPTH, fuse
from services.retriever.sources.config import ShardsConfig

_FRESH_S = 2.0  # what the shards told of themselves is believed for so long
_OF_THE_SHARD = frozenset({Failure.UNAVAILABLE, Failure.TIMEOUT, Failure.OVERLOADED, Failure.BROKEN})

Connect = Callable[[str, float], Any]


class Shards:
    """The index whose parts the services at `config.shards` hold.

    Vectors of one encoder are comparable across shards, so dense rankings are those of a single index. BM25 weighs a
    word by its share of the shard's passages, so passages should be dealt out evenly. Hybrid search fuses the merged
    rankings, as a single index does. A shard that fails fails the search: fewer passages would pass for all of them.
    """

    def __init__(self, name: str, config: ShardsConfig, connect: Connect = GrpcRetriever) -> None:
        self.info = IndexInfo(name, "", kind=config.kind, source=config.source, licence=config.licence)
        self._connect, self._config = connect, config
        self._asked_at = -_FRESH_S
        self._asking: asyncio.Task[None] | None = None

    async def described(self) -> IndexInfo:
        """Returns what the shards tell of themselves, all in all. Raises RetrieverError.

        Waits for them only if they have told nothing yet.
        """
        if self._asking is None or (self._asking.done() and time.monotonic() - self._asked_at >= _FRESH_S):
            self._asked_at, self._asking = time.monotonic(), asyncio.create_task(self._describe())
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # a search will tell
        if not self.info.modes:
            await asyncio.wait([self._asking])
            self._asking.result()
        return self.info

    async def _describe(self) -> None:
        parts = await asyncio.gather(*(self._part(number) for number in range(len(self._shards))))
        first = parts[0]
        for number, part in enumerate(parts, start=1):
            if (part.encoder, part.dim) != (first.encoder, first.dim):
                raise self._failed(number, f"has the encoder {part.encoder!r}, and shard 1 {first.encoder!r}")
        modes = tuple(mode for mode in first.modes if all(mode in part.modes for part in parts))
        if not modes:
            raise self._failed(1, "shares no mode with the others")
        self.info = replace(
            self.info,
            version=_version([part.served for part in parts]),
            passages=sum(part.passages for part in parts),
            dim=first.dim,
            encoder=first.encoder,
            modes=modes,
            keys=tuple(sorted({key for part in parts for key in part.keys})),
        )

    @cached_property
    def _shards(self) -> list[tuple[Any, str]]:
        """Returns each shard's client and index. A gRPC channel must be made in the loop that uses it."""
        targets = map(model_at, self._config.shards)
        return [(self._connect(address, self._config.timeout_s), index) for address, index in targets]

    async def _part(self, number: int) -> IndexInfo:
        retriever, index = self._shards[number]
        try:
            return index_named(await retriever.indexes(), index)
        except RetrieverError as error:
            raise self._failed(number + 1, error.message, error.failure) from error

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        """Returns up to `how.top_k` passages for each query, with the version that found them. Raises RetrieverError.

        `how.mode` is not AUTO.
        """
        is_hybrid = how.mode is Mode.HYBRID
        modes = (Mode.DENSE, Mode.BM25) if is_hybrid else (how.mode,)
        depth = max(how.top_k, DEPTH) if is_hybrid else how.top_k
        asked = [
            self._ask(number, queries, replace(how, mode=mode, top_k=depth))
            for mode in modes
            for number in range(len(self._shards))
        ]
        answers = await asyncio.gather(*asked)
        size = len(self._shards)
        by_mode = [answers[start : start + size] for start in range(0, len(answers), size)]
        versions = {_version([part.served for part in parts]) for parts in by_mode}
        version = versions.pop() if len(versions) == 1 else ""  # a shard was swapped between two modes
        if version != self.info.version:
            self._asked_at = -_FRESH_S
        ranked = [_merged(parts, depth) for parts in by_mode]
        found = [_fused(lists, how.top_k) for lists in zip(*ranked, strict=True)] if is_hybrid else ranked[0]
        return Rankings(found, f"{self.info.name}@{version}")

    async def _ask(self, number: int, queries: Sequence[str], how: Retrieval) -> Rankings:
        retriever, index = self._shards[number]
        try:
            found: Rankings = await retriever.search(queries, replace(how, index=index))
        except RetrieverError as error:
            if error.failure in _OF_THE_SHARD:
                raise self._failed(number + 1, error.message, error.failure) from error
            raise
        return found

    async def embed(self, texts: Sequence[str], as_passages: bool) -> list[bytes]:
        """Returns the vectors that the first shard's encoder makes. Raises RetrieverError."""
        retriever, index = self._shards[0]
        vectors: list[bytes] = await retriever.embed(texts, index, as_passages)
        return vectors

    def _failed(self, number: int, what: str, failure: Failure = Failure.UNAVAILABLE) -> RetrieverError:
        """Returns the error of a shard. Its field says that other indexes are not concerned."""
        return RetrieverError(failure, f"shard {number} of index {self.info.name!r}: {what}", "index")

    async def close(self) -> None:
        if self._asking:
            self._asking.cancel()
        for retriever, _ in self.__dict__.get("_shards", ()):  # none was made if nothing was asked
            await retriever.close()


def _version(served: Sequence[str]) -> str:
    """Returns a hash of the shards' versions, empty if one of them has none."""
    if any(each.endswith("@") for each in served):
        return ""
    return hashlib.sha256("\n".join(served).encode()).hexdigest()[:16]


def _merged(parts: Sequence[Rankings], depth: int) -> list[tuple[Passage, ...]]:
    """Returns for each query the best passages of all shards by score; ties, and equal ids, go to the earlier one."""
    found: list[tuple[Passage, ...]] = []
    for lists in zip(*parts, strict=True):
        best: dict[str, Passage] = {}
        for passage in heapq.merge(*lists, key=lambda passage: -passage.score):
            best.setdefault(passage.id, passage)
        found.append((*itertools.islice(best.values(), depth),))
    return found


def _fused(lists: Sequence[tuple[Passage, ...]], top_k: int) -> tuple[Passage, ...]:
    """Returns one query's passages by reciprocal rank fusion of its rankings."""
    passages = {passage.id: passage for ranked in lists for passage in ranked}
    ranking = fuse(([(passage.id, passage.score) for passage in ranked] for ranked in lists), top_k)
    return tuple(replace(passages[id], score=score) for id, score in ranking)
