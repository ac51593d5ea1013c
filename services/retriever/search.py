"""Answers batches of queries from the opened indexes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from common import metrics
from search_agent.errors import Failure, RetrieverError
from search_agent.filters import EVERYTHING, Filter
from search_agent.types import QUESTION_CHARS, IndexInfo, Mode, Passage, Rankings, Retrieval
from services.retriever.batcher import Batcher
from services.retriever.encoders import Encoder
from services.retriever.fusion import DEPTH, Ranking, fuse
from services.retriever.index import Index
from services.retriever.keeper import Keeper
from services.retriever.passages import embedded_text
from services.retriever.rerankers import Reranker
from services.retriever.settings import RetrieverSettings
from services.retriever.shelf import Served, Shelf

Ranked = dict[tuple[Served, Filter, str], Ranking]


@dataclass(frozen=True, slots=True)
class Query:
    """A query to rank, or to rerank only: `candidates` are passages that another server has ranked."""

    text: str
    top_k: int
    served: Served
    mode: Mode
    rerank: int = 0
    filter: Filter = EVERYTHING
    candidates: tuple[Passage, ...] | None = None

    @property
    def found(self) -> int:
        """The number of passages that its mode finds; if that is more than top_k, the reranker chooses among them."""
        return max(self.top_k, self.rerank)

    @property
    def depth(self) -> int:
        """The number of ranks that this query reads of a ranking."""
        return max(self.found, DEPTH) if self.mode is Mode.HYBRID else self.found


class BatchSearch:
    """Answers one merged batch: one encoding an encoder, one search an index, filter and ranking, one reranking."""

    def __init__(self, reranker: Reranker | None = None) -> None:
        self._reranker = reranker

    def __call__(self, queries: Sequence[Query]) -> list[tuple[Passage, ...]]:
        """Returns for each query its passages, best first, scored by its mode."""
        ours = [query for query in queries if query.candidates is None]
        dense = self._dense([query for query in ours if query.mode is not Mode.BM25])
        bm25 = self._bm25([query for query in ours if query.mode is not Mode.DENSE])
        found: list[tuple[Passage, ...]] = []
        with _stage("passages"):
            for query in queries:
                if query.candidates is not None:
                    found.append(query.candidates)
                    continue
                key = (query.served, query.filter, query.text)
                rankings = [ranked[key][: query.depth] for ranked in (dense, bm25) if key in ranked]
                if query.mode is Mode.HYBRID:
                    ranking = fuse(rankings, query.found)
                else:
                    ranking = (dense if query.mode is Mode.DENSE else bm25)[key][: query.found]
                passages = _index(query.served).passages([row for row, _ in ranking])
                found.append(tuple(replace(passages[row], score=score) for row, score in ranking))
        return self._reranked(queries, found)

    def _reranked(self, queries: Sequence[Query], found: list[tuple[Passage, ...]]) -> list[tuple[Passage, ...]]:
        """Returns the best top_k by the reranker's score for queries that ask for it; ties keep their order."""
        wanted = [
            (query.text, embedded_text(passage))
            for query, passages in zip(queries, found, strict=True)
            for passage in passages
            if query.rerank
        ]
        if not wanted or self._reranker is None:
            return found
        distinct = [*dict.fromkeys(wanted)]
        with _stage("rerank"):
            scores = dict(zip(distinct, self._reranker.scores(distinct).tolist(), strict=True))
        ranked: list[tuple[Passage, ...]] = []
        for query, passages in zip(queries, found, strict=True):
            if query.rerank:
                scored = [replace(each, score=scores[query.text, embedded_text(each)]) for each in passages]
                passages = tuple(sorted(scored, key=lambda each: -each.score)[: query.top_k])
            ranked.append(passages)
        return ranked

    def _dense(self, queries: list[Query]) -> Ranked:
        by_encoder: dict[Encoder, dict[str, int]] = {}
        for query in queries:
            texts = by_encoder.setdefault(_encoder(query.served), {})
            texts.setdefault(query.text, len(texts))
        with _stage("encode", used=bool(queries)):
            vectors = {encoder: encoder.queries([*texts]) for encoder, texts in by_encoder.items()}
        ranked: Ranked = {}
        with _stage("dense", used=bool(queries)):
            for (served, filter), (distinct, depth) in _grouped(queries).items():
                encoder = _encoder(served)
                wanted = vectors[encoder][[by_encoder[encoder][text] for text in distinct]]
                found = _index(served).dense(wanted, depth, filter)
                ranked |= {(served, filter, text): each for text, each in zip(distinct, found, strict=True)}
        return ranked

    def _bm25(self, queries: list[Query]) -> Ranked:
        ranked: Ranked = {}
        with _stage("bm25", used=bool(queries)):
            for (served, filter), (distinct, depth) in _grouped(queries).items():
                found = _index(served).bm25(distinct, depth, filter)
                ranked |= {(served, filter, text): each for text, each in zip(distinct, found, strict=True)}
        return ranked


def _index(served: Served) -> Index:
    assert served.index is not None  # other servers' passages come as candidates
    return served.index


def _encoder(served: Served) -> Encoder:
    assert served.encoder is not None  # the index has the mode
    return served.encoder


def _grouped(queries: list[Query]) -> dict[tuple[Served, Filter], tuple[list[str], int]]:
    """Returns for each index and filter the distinct texts and the greatest depth that one of them needs."""
    groups: dict[tuple[Served, Filter], tuple[dict[str, None], int]] = {}
    for query in queries:
        texts, depth = groups.setdefault((query.served, query.filter), ({}, 0))
        texts[query.text] = None
        groups[query.served, query.filter] = (texts, max(depth, query.depth))
    return {group: ([*texts], depth) for group, (texts, depth) in groups.items()}


@contextmanager
def _stage(name: str, used: bool = True) -> Iterator[None]:
    started = time.perf_counter()
    yield
    if used:
        metrics.RETRIEVER_STAGE_SECONDS.labels(name).observe(time.perf_counter() - started)


class BatchedRetriever:
    """The Retriever port over opened indexes and sources: checks requests and merges concurrent ones."""

    def __init__(
        self, shelf: Shelf, settings: RetrieverSettings, keeper: Keeper, reranker: Reranker | None = None
    ) -> None:
        self._shelf, self.keeper, self.changed = shelf, keeper, shelf.changed
        self._embedding = asyncio.Lock()
        self._settings = settings
        self._batcher: Batcher[Query, tuple[Passage, ...]] = Batcher(
            BatchSearch(reranker), settings.max_batch, settings.max_queued
        )

    async def indexes(self) -> Sequence[IndexInfo]:
        return [await self._told(served) for served in self._shelf]

    async def _told(self, served: Served) -> IndexInfo:
        """Returns what is known about an index; for a server, with its fault."""
        if served.source is None:
            return served.info
        try:
            served = await self._known(served)
        except RetrieverError as error:
            return replace(served.info, fault=error.message)
        return replace(served.info, fault=served.source.fault if served.source else "")

    async def _known(self, served: Served) -> Served:
        """Returns the index, with what its servers report by now if it has any. Raises RetrieverError."""
        if served.source is None:
            return served
        return self._shelf.tell(served, await served.source.described())

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        """Returns up to `how.top_k` passages a query; BM25 finds fewer where fewer share a word with the query.

        There may be any number of queries; an empty one finds nothing, and a long one is cut. With `how.rerank`, the
        cross-encoder scores max(rerank, top_k) passages of the mode's ranking, and its best `top_k` are the answer.
        """
        limits = self._settings
        if not queries:
            raise RetrieverError(Failure.INVALID, "at least one query is needed", "queries")
        if not 1 <= how.top_k <= limits.max_top_k:
            raise RetrieverError(Failure.INVALID, f"{how.top_k} is not between 1 and {limits.max_top_k}", "top_k")
        served = await self._known(self._shelf.named(how.index))
        index = served.info
        mode = index.mode(how.mode)
        if mode not in (index.modes or (Mode.AUTO,)):
            has = f"was built without {mode} search; it has {', '.join(index.modes)}"
            why = has if index.modes else "is a server, which ranks by itself"
            raise RetrieverError(Failure.UNSUPPORTED, f"index {index.name!r} {why}", "mode")
        if how.filter and not index.modes:
            why = f"index {index.name!r} is a server, whose passages cannot be filtered"
            raise RetrieverError(Failure.UNSUPPORTED, why, "filter")
        if how.rerank and not index.reranker:
            raise RetrieverError(
                Failure.UNSUPPORTED, "the retriever has no reranker; RETRIEVER_RERANKER names one", "rerank"
            )
        if how.rerank and max(how.rerank, how.top_k) > limits.max_rerank:
            raise RetrieverError(
                Failure.INVALID,
                f"{max(how.rerank, how.top_k)} passages, at most {limits.max_rerank} can be reranked",
                "rerank",
            )
        texts = [_cleaned(query) for query in queries]
        asked = [Query(text, how.top_k, served, mode, how.rerank, how.filter) for text in texts if text]
        found = Rankings(served=index.served)
        size = min(limits.max_batch, limits.max_queued)  # a larger request takes turns with others
        for start in range(0, len(asked), size):
            some = await self._ranked(asked[start : start + size], admitted=start > 0)
            found = Rankings([*found, *some], some.served)
        answers = iter(found)
        return Rankings((next(answers) if text else () for text in texts), found.served)

    async def _ranked(self, queries: Sequence[Query], admitted: bool) -> Rankings:
        """Returns the passages of queries that differ in their text only."""
        served, how = queries[0].served, queries[0]
        answered = served.info.served
        if served.source:
            asked = Retrieval(how.found, mode=how.mode, filter=how.filter)
            ranked = await served.source.search([query.text for query in queries], asked)
            if not how.rerank:
                return ranked
            answered = ranked.served
            queries = [replace(query, candidates=its) for query, its in zip(queries, ranked, strict=True)]
        return Rankings(await self._batcher.submit(queries, admitted), answered)

    async def embed(self, texts: Sequence[str], index: str, as_passages: bool) -> list[bytes]:
        """Returns the vectors that the index's encoder makes of the texts, of which there may be any number."""
        if not texts:
            raise RetrieverError(Failure.INVALID, "at least one text is needed", "texts")
        served = await self._known(self._shelf.named(index))
        if served.source:
            return await served.source.embed(texts, as_passages)
        if served.encoder is None:
            raise RetrieverError(Failure.UNSUPPORTED, f"index {served.info.name!r} has no vectors", "index")
        encoder, size = served.encoder, self._settings.max_batch
        vectors: list[bytes] = []
        for start in range(0, len(texts), size):  # a larger request takes turns with others
            some = [*texts[start : start + size]]
            async with self._embedding:  # texts can be long, and searches need the cores too
                found = await asyncio.to_thread(encoder.passages if as_passages else encoder.queries, some)
            vectors += [vector.astype("<f4").tobytes() for vector in found]
        return vectors

    async def close(self) -> None:
        await self.keeper.close()
        await self._batcher.close()
        for served in self._shelf:
            if served.source:
                await served.source.close()


def _cleaned(query: str) -> str:
    """Returns the query, cut to the length that a question may have, which no encoder reads in full."""
    return query[:QUESTION_CHARS].replace("\0", " ").strip()
