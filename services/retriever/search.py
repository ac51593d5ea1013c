"""Answers batches of queries from the opened indexes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from common import metrics
from search_agent.errors import Failure, RetrieverError
from search_agent.types import QUESTION_CHARS, IndexInfo, Mode, Passage, Rankings, Retrieval
from search_agent.world import index_named
from services.retriever.batcher import Batcher
from services.retriever.encoders import Encoder
from services.retriever.fusion import DEPTH, Ranking, fuse
from services.retriever.index import Index
from services.retriever.passages import embedded_text
from services.retriever.rerankers import Reranker
from services.retriever.settings import RetrieverSettings
from services.retriever.sources import Source


@dataclass(frozen=True, slots=True)
class Query:
    """A query to rank, or to rerank only: `candidates` are passages that another server has ranked."""

    text: str
    top_k: int
    index: str
    mode: Mode
    rerank: int = 0
    candidates: tuple[Passage, ...] | None = None

    @property
    def found(self) -> int:
        """The number of passages that its mode finds; if they are more than top_k, the reranker chooses among them."""
        return max(self.top_k, self.rerank)

    @property
    def depth(self) -> int:
        """The number of ranks that this query reads of a ranking."""
        return max(self.found, DEPTH) if self.mode is Mode.HYBRID else self.found


class BatchSearch:
    """Answers one merged batch: one encoding an encoder, one search an index and ranking, one reranking.

    `encoders` holds the encoder of every index that has vectors, by its manifest's `encoding`.
    """

    def __init__(
        self,
        indexes: Mapping[str, Index],
        encoders: Mapping[tuple[str, ...], Encoder],
        reranker: Reranker | None = None,
    ) -> None:
        self._indexes = indexes
        self._encoders = encoders
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
                key = (query.index, query.text)
                rankings = [ranked[key][: query.depth] for ranked in (dense, bm25) if key in ranked]
                if query.mode is Mode.HYBRID:
                    ranking = fuse(rankings, query.found)
                else:
                    ranking = (dense if query.mode is Mode.DENSE else bm25)[key][: query.found]
                passages = self._indexes[query.index].passages([row for row, _ in ranking])
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

    def _dense(self, queries: list[Query]) -> dict[tuple[str, str], Ranking]:
        by_encoder: dict[tuple[str, ...], dict[str, int]] = {}
        for query in queries:
            texts = by_encoder.setdefault(self._indexes[query.index].manifest.encoding, {})
            texts.setdefault(query.text, len(texts))
        with _stage("encode", used=bool(queries)):
            vectors = {name: self._encoders[name].queries([*texts]) for name, texts in by_encoder.items()}
        ranked: dict[tuple[str, str], Ranking] = {}
        with _stage("dense", used=bool(queries)):
            for name, (distinct, depth) in _by_index(queries).items():
                index = self._indexes[name]
                encoder = index.manifest.encoding
                wanted = vectors[encoder][[by_encoder[encoder][text] for text in distinct]]
                ranked |= _keyed(name, distinct, index.dense(wanted, depth))
        return ranked

    def _bm25(self, queries: list[Query]) -> dict[tuple[str, str], Ranking]:
        ranked: dict[tuple[str, str], Ranking] = {}
        with _stage("bm25", used=bool(queries)):
            for name, (distinct, depth) in _by_index(queries).items():
                ranked |= _keyed(name, distinct, self._indexes[name].bm25(distinct, depth))
        return ranked


def _keyed(index: str, texts: list[str], rankings: list[Ranking]) -> dict[tuple[str, str], Ranking]:
    return {(index, text): ranking for text, ranking in zip(texts, rankings, strict=True)}


def _by_index(queries: list[Query]) -> dict[str, tuple[list[str], int]]:
    """Returns for each index its distinct texts and the greatest depth that one of them needs."""
    groups: dict[str, tuple[dict[str, None], int]] = {}
    for query in queries:
        texts, depth = groups.setdefault(query.index, ({}, 0))
        texts[query.text] = None
        groups[query.index] = (texts, max(depth, query.depth))
    return {name: ([*texts], depth) for name, (texts, depth) in groups.items()}


@contextmanager
def _stage(name: str, used: bool = True) -> Iterator[None]:
    started = time.perf_counter()
    yield
    if used:
        metrics.RETRIEVER_STAGE_SECONDS.labels(name).observe(time.perf_counter() - started)


class BatchedRetriever:
    """The Retriever port over opened indexes and sources: checks requests and merges concurrent ones."""

    def __init__(
        self,
        indexes: Mapping[str, Index],
        encoders: Mapping[tuple[str, ...], Encoder],
        default: str,
        settings: RetrieverSettings,
        reranker: Reranker | None = None,
        sources: Mapping[str, Source] | None = None,
    ) -> None:
        self._sources = sources or {}
        infos = [*map(_info, indexes.values()), *(source.info for source in self._sources.values())]
        ranker = reranker.name if reranker else ""
        self._indexes = [replace(info, is_default=info.name == default, reranker=ranker) for info in infos]
        self._encoders = {
            name: encoders[index.manifest.encoding] for name, index in indexes.items() if index.manifest.encoder
        }
        self._embedding = asyncio.Lock()
        self._settings = settings
        self._batcher: Batcher[Query, tuple[Passage, ...]] = Batcher(
            BatchSearch(indexes, encoders, reranker), settings.max_batch, settings.max_queued
        )

    async def indexes(self) -> Sequence[IndexInfo]:
        faults = {name: source.fault for name, source in self._sources.items()}
        return [replace(index, fault=faults.get(index.name, "")) for index in self._indexes]

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
        index = index_named(self._indexes, how.index)
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
        asked = [Query(text, how.top_k, index.name, mode, how.rerank) for text in texts if text]
        found: list[tuple[Passage, ...]] = []
        size = min(limits.max_batch, limits.max_queued)  # a larger request takes turns with others
        for start in range(0, len(asked), size):
            found += await self._ranked(asked[start : start + size], admitted=start > 0)
        answers = iter(found)
        return Rankings((next(answers) if text else () for text in texts), index.served)

    async def _ranked(self, queries: Sequence[Query], admitted: bool) -> list[tuple[Passage, ...]]:
        """Returns the passages of queries that differ in their text only."""
        source, how = self._sources.get(queries[0].index), queries[0]
        if source:
            ranked = await source.search([query.text for query in queries], how.found)
            if not how.rerank:
                return ranked
            queries = [replace(query, candidates=its) for query, its in zip(queries, ranked, strict=True)]
        return await self._batcher.submit(queries, admitted)

    async def embed(self, texts: Sequence[str], index: str, as_passages: bool) -> list[bytes]:
        """Returns the vectors that the index's encoder makes of the texts, of which there may be any number."""
        if not texts:
            raise RetrieverError(Failure.INVALID, "at least one text is needed", "texts")
        name = index_named(self._indexes, index).name
        if name not in self._encoders:
            raise RetrieverError(Failure.UNSUPPORTED, f"index {name!r} has no vectors", "index")
        encoder, size = self._encoders[name], self._settings.max_batch
        vectors: list[bytes] = []
        for start in range(0, len(texts), size):  # a larger request takes turns with others
            some = [*texts[start : start + size]]
            async with self._embedding:  # texts can be long, and searches need the cores too
                found = await asyncio.to_thread(encoder.passages if as_passages else encoder.queries, some)
            vectors += [vector.astype("<f4").tobytes() for vector in found]
        return vectors

    async def close(self) -> None:
        await self._batcher.close()
        for source in self._sources.values():
            await source.close()


def _cleaned(query: str) -> str:
    """Returns what is searched for: no more characters than a question may have, which no encoder reads in full."""
    return query[:QUESTION_CHARS].replace("\0", " ").strip()


def _info(index: Index) -> IndexInfo:
    found = index.manifest
    return IndexInfo(
        name=found.name,
        version=found.version,
        passages=found.count,
        dim=found.dim,
        kind=found.kind,
        encoder=found.encoder,
        modes=found.modes,
        source=found.source,
        licence=found.licence,
    )
