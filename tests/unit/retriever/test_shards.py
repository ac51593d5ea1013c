"""An index in parts, beside the same passages in one index."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_agent.errors import Failure, RetrieverError
from search_agent.filters import Filter
from search_agent.types import IndexInfo, Mode, Rankings, Retrieval
from services.retriever import kinds
from services.retriever.build import Plan, build
from services.retriever.errors import BuildRefused, IndexRefused
from services.retriever.index import Index
from services.retriever.search import BatchedRetriever
from services.retriever.service import assemble
from services.retriever.settings import RetrieverSettings
from services.retriever.shelf import Served, Shelf
from services.retriever.sources import shards
from services.retriever.sources.config import ShardsConfig, connect
from services.retriever.sources.shards import Shards
from tests.unit.retriever.helpers import FakeEncoder, write_corpus

COUNT = 60
PARTS = ("a:1/words", "b:1", "c:1/words")
QUERIES = ["common word7", "common word31 word12", "text", "Title 5", "nothing of it"]


class Flaky:
    """A retriever of another machine, which may be down."""

    def __init__(self, retriever: BatchedRetriever) -> None:
        self.retriever = retriever
        self.failure: Failure | None = None
        self.asked: list[Retrieval] = []

    async def indexes(self) -> Sequence[IndexInfo]:
        self._fail()
        return await self.retriever.indexes()

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        self._fail()
        self.asked.append(how)
        return await self.retriever.search(queries, how)

    async def embed(self, texts: Sequence[str], index: str, as_passages: bool) -> list[bytes]:
        return await self.retriever.embed(texts, index, as_passages)

    async def close(self) -> None:
        await self.retriever.close()

    def _fail(self) -> None:
        if self.failure:
            raise RetrieverError(self.failure, "is away")


def retriever(folder: Path, numbers: Sequence[int], encoder: FakeEncoder) -> BatchedRetriever:
    """Returns a retriever whose index `words` has the passages of these numbers."""
    folder.mkdir()
    passages = [
        {"id": f"p{n}", "title": f"Title {n}", "text": f"common word{n} text", "metadata": {"n": n}} for n in numbers
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    build(Plan(folder / "corpus.jsonl", "words", folder, encoder.name), lambda _: encoder, lambda _: None)
    return assemble(RetrieverSettings(indexes=folder), load=lambda _: encoder)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[dict[str, Flaky]]:
    made = {
        part.partition("/")[0]: Flaky(retriever(tmp_path / part[0], range(first, COUNT, len(PARTS)), FakeEncoder()))
        for first, part in enumerate(PARTS)
    }
    yield made
    for part in made.values():
        await part.close()


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[BatchedRetriever]:
    made = retriever(tmp_path / "whole", range(COUNT), FakeEncoder())
    yield made
    await made.close()


def test_parts_of_a_corpus_are_all_of_it(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    corpus = write_corpus(tmp_path / "corpus.jsonl", 7)
    whole = Index(build(Plan(corpus, "whole", tmp_path, "fake"), lambda _: encoder, lambda _: None))
    np.save(tmp_path / "all.npy", np.load(whole.folder / kinds.VECTORS))
    for number in (1, 2, 3):
        plan = Plan(corpus, f"p{number}", tmp_path, "fake", vectors=tmp_path / "all.npy", part=(number, 3))
        index = Index(build(plan, lambda _: encoder, lambda _: None))
        passages = index.passages(range(index.manifest.count)).values()
        assert [passage.id for passage in passages] == [f"p{n}" for n in range(number - 1, 7, 3)]
        assert np.array_equal(np.load(index.folder / kinds.VECTORS), np.load(tmp_path / "all.npy")[number - 1 :: 3])
    with pytest.raises(BuildRefused, match="no passages in part 8/8"):
        build(Plan(corpus, "p8", tmp_path, "", part=(8, 8)), lambda _: encoder, lambda _: None)


def sharded(parts: dict[str, Flaky]) -> Shards:
    return Shards("all", ShardsConfig(shards=PARTS), lambda address, timeout_s: parts[address])


def ids(found: Rankings) -> list[list[str]]:
    return [[passage.id for passage in passages] for passages in found]


@pytest.mark.parametrize("mode", [Mode.DENSE, Mode.BM25, Mode.HYBRID])
@pytest.mark.parametrize("top_k", [1, 5, 2 * COUNT])
async def test_shards_find_what_one_index_finds(
    parts: dict[str, Flaky], whole: BatchedRetriever, mode: Mode, top_k: int
) -> None:
    found = await sharded(parts).search(QUERIES, Retrieval(top_k, mode=mode))
    alone = await whole.search(QUERIES, Retrieval(top_k, mode=mode))
    if mode is Mode.DENSE:  # whose scores say nothing of the other passages
        assert ids(found) == ids(alone)
        assert [[p.score for p in ps] for ps in found] == [pytest.approx([p.score for p in ps]) for ps in alone]
    assert [len(passages) for passages in found] == [len(passages) for passages in alone]
    assert all(p.score >= q.score for passages in found for p, q in itertools.pairwise(passages))
    if mode is Mode.BM25:
        assert found[0][0].id == "p7"
    assert all(len(set(each)) == len(each) for each in ids(found))


async def test_the_best_of_a_hybrid_search_is_fused_from_whole_rankings(parts: dict[str, Flaky]) -> None:
    await sharded(parts).search(["common word7"], Retrieval(2, mode=Mode.HYBRID))
    assert {(how.mode, how.top_k) for part in parts.values() for how in part.asked} == {
        (Mode.DENSE, shards.DEPTH),
        (Mode.BM25, shards.DEPTH),
    }


async def test_it_is_described_as_one_index(parts: dict[str, Flaky], whole: BatchedRetriever) -> None:
    index = sharded(parts)
    info, [one] = await index.described(), await whole.indexes()
    assert (info.name, info.kind, info.passages) == ("all", "shards", COUNT)
    assert (info.modes, info.encoder, info.dim, info.keys) == (one.modes, one.encoder, one.dim, one.keys)
    found = await index.search(QUERIES, Retrieval(2, mode=Mode.BM25))
    assert found.served == info.served != "all@"
    assert await index.embed(["text"], as_passages=False) == await whole.embed(["text"], "", as_passages=False)


async def test_filters_reach_every_shard(parts: dict[str, Flaky]) -> None:
    how = Retrieval(COUNT, mode=Mode.DENSE, filter=Filter.from_json({"n": {"gte": 50}}))
    [found] = await sharded(parts).search(["text"], how)
    assert {passage.id for passage in found} == {f"p{n}" for n in range(50, COUNT)}


@pytest.mark.parametrize("failure", [Failure.UNAVAILABLE, Failure.TIMEOUT, Failure.OVERLOADED])
async def test_a_shard_that_is_away_fails_the_search_and_is_named(parts: dict[str, Flaky], failure: Failure) -> None:
    index = sharded(parts)
    before = await index.described()
    parts["b:1"].failure = failure
    with pytest.raises(RetrieverError, match="shard 2 of index 'all': is away") as caught:
        await index.search(["text"], Retrieval(2, mode=Mode.BM25))
    assert (caught.value.failure, caught.value.field) == (failure, "index")
    assert await index.described() == before
    parts["b:1"].failure = None
    assert await index.search(["text"], Retrieval(2, mode=Mode.BM25))


async def test_a_shard_that_was_never_there_is_named_until_it_comes(
    parts: dict[str, Flaky], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_FRESH_S", 0.0)
    index = sharded(parts)
    parts["c:1"].failure = Failure.UNAVAILABLE
    with pytest.raises(RetrieverError, match="shard 3 of index 'all': is away"):
        await index.described()
    parts["c:1"].failure = None
    assert (await index.described()).passages == COUNT


async def test_a_swapped_shard_makes_another_version(parts: dict[str, Flaky], tmp_path: Path) -> None:
    index = sharded(parts)
    before = await index.described()
    parts["b:1"].retriever = retriever(tmp_path / "next", range(100, 105), FakeEncoder())
    found = await index.search(["word103"], Retrieval(1, mode=Mode.BM25))
    assert ids(found) == [["p103"]]
    assert found.served not in ("all@", before.served)
    for _ in range(500):
        after = await index.described()  # asked for again, since a search met another version
        if after != before:
            break
        await asyncio.sleep(0.01)
    assert (after.served, after.passages) == (found.served, COUNT - 20 + 5)


async def test_shards_of_different_encoders_are_refused(parts: dict[str, Flaky], tmp_path: Path) -> None:
    parts["c:1"].retriever = retriever(tmp_path / "other", [1], FakeEncoder("other", 8))
    with pytest.raises(RetrieverError, match="shard 3 of index 'all': has the encoder 'other', and shard 1 'fake'"):
        await sharded(parts).described()


def test_what_a_server_tells_late_does_not_bring_it_back() -> None:
    shelf = Shelf("a")
    first = shelf.put(Served(IndexInfo("a", "1")))
    second = shelf.put(Served(IndexInfo("a", "2")))
    assert shelf.tell(first, IndexInfo("a", "late")).info == IndexInfo("a", "late", is_default=True)
    assert shelf.named("a") is second
    assert shelf.tell(second, IndexInfo("a", "3")) is shelf.named("a")
    assert shelf.named("").info.version == "3"
    shelf.drop("a")
    shelf.tell(second, IndexInfo("a", "4"))
    assert "a" not in shelf


@pytest.mark.parametrize("given", [[], ["host"], ["host:1/a", "host:x"], "host:1", ["http://host:1"]], ids=str)
def test_wrong_addresses_are_refused_by_their_place(tmp_path: Path, given: Any) -> None:
    with pytest.raises(IndexRefused, match="shards"):
        connect(tmp_path, "all", {"kind": "shards", "shards": given}, force=False)
