"""Filters in every mode and index kind find what comparing every passage finds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.corpus import BadRecord
from search_agent.filters import Filter
from search_agent.types import Mode, Passage, Retrieval
from services.retriever import dense, kinds
from services.retriever.bm25 import BM25S, NONE
from services.retriever.build import Plan, build
from services.retriever.columns import COLUMNS, Columns, ColumnsWriter, Selection
from services.retriever.errors import IndexRefused
from services.retriever.index import Index
from services.retriever.kinds import KINDS
from services.retriever.passages import embedded_text
from services.retriever.service import assemble
from services.retriever.settings import RetrieverSettings
from tests.unit.retriever.helpers import FakeEncoder
from tests.unit.retriever.test_gpu import FakeGpu, vectors

COUNT = 600
ENCODER = FakeEncoder()


def metadata(n: int) -> dict[str, Any]:
    held: dict[str, Any] = {"year": 1900 + n % 100, "source": ["wiki", "news", "blog"][n % 3], "share": n / 7}
    held |= {"lang": ["en", "de"][: 1 + n % 2], "peer": n % 5 == 0}
    return held if n % 4 else {"year": str(n)}


PASSAGES = [Passage(f"p{n}", f"Title {n}", f"common word{n % 9} text", metadata=metadata(n)) for n in range(COUNT)]
FILTERS = [
    Filter.from_json(asked)
    for asked in (
        {"source": "wiki"},
        {"source": "nowhere"},
        {"nothing": 1},
        {"year": {"gte": 1990}},
        {"year": {"gte": 1903, "lte": 1905}, "source": {"in": ["news", "blog"]}},
        {"year": 1997},
        {"year": {"lte": "4"}},
        {"lang": "de", "peer": True},
        {"peer": {"exists": False}},
        {"share": {"lte": 3.5}},
        {"lang": {"in": ["de", "fr"]}, "peer": {"exists": True}},
    )
]


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of each kind over PASSAGES."""
    out = tmp_path_factory.mktemp("indexes")
    corpus = out / "corpus.jsonl"
    lines = ({"id": p.id, "title": p.title, "text": p.text, "metadata": p.metadata} for p in PASSAGES)
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for kind in KINDS.values():
        bm25 = BM25S if kind.name in ("flat", "hnsw") else NONE
        build(Plan(corpus, kind.name, out, "fake", kind, bm25), lambda _: ENCODER, lambda _: None)
    return out


def rows_of(filter: Filter) -> list[int]:
    return [row for row, passage in enumerate(PASSAGES) if filter.matches(passage.metadata)]


@pytest.mark.parametrize("filter", FILTERS, ids=str)
def test_columns_select_what_the_filter_matches(indexes: Path, filter: Filter) -> None:
    found = Columns(indexes / "flat", COUNT).select(filter)
    assert found is not None
    assert np.flatnonzero(found.mask).tolist() == rows_of(filter)


@pytest.mark.parametrize("filter", FILTERS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_dense_finds_the_nearest_that_pass(indexes: Path, kind: str, filter: Filter) -> None:
    index, asked, allowed = Index(indexes / kind), ENCODER.queries(["one", "two", "three"]), rows_of(filter)
    stored = dense.Stored(indexes / "flat" / kinds.VECTORS, kinds.FLAT, COUNT, ENCODER.dim)
    exact = asked @ stored[0:COUNT].astype(np.float32)[allowed].T if allowed else np.zeros((3, 0))
    for scores, ranking in zip(exact, index.dense(asked, 10, filter), strict=True):
        best = [allowed[place] for place in np.argsort(-scores, kind="stable")[:10]]
        found = [row for row, _ in ranking]
        assert len(found) == len(best)
        assert {*found} <= {*allowed}
        few = len(allowed) < COUNT / 10  # so that all of them are compared
        if (KINDS[kind].exact and few) or kind in ("flat", "flat-fp16"):
            assert found == best


@pytest.mark.parametrize("filter", FILTERS, ids=str)
@pytest.mark.parametrize("mode", [Mode.DENSE, Mode.BM25, Mode.HYBRID])
@pytest.mark.parametrize("name", ["flat", "hnsw"])
async def test_modes_find_top_k_that_pass(indexes: Path, name: str, mode: Mode, filter: Filter) -> None:
    retriever = assemble(RetrieverSettings(indexes=indexes, default_index=name), lambda _: ENCODER)
    [everything] = await retriever.search(["word3 common"], Retrieval(COUNT, name, mode))
    [found] = await retriever.search(["word3 common"], Retrieval(20, name, mode, filter=filter))
    allowed = [passage for passage in everything if filter.matches(passage.metadata)]
    assert len(found) == min(20, len(allowed))
    assert all(filter.matches(passage.metadata) for passage in found)
    if mode is Mode.BM25:
        assert found == tuple(allowed[:20])
    await retriever.close()


async def test_queries_of_different_filters_share_a_batch(indexes: Path) -> None:
    retriever = assemble(RetrieverSettings(indexes=indexes, default_index="flat"), lambda _: ENCODER)
    asked = [Retrieval(5, "flat", Mode.HYBRID, filter=filter) for filter in (*FILTERS, Filter())]
    alone = [await retriever.search(["word3"], how) for how in asked]
    assert await asyncio.gather(*(retriever.search(["word3"], how) for how in asked)) == alone
    await retriever.close()


@pytest.mark.parametrize("gpus", [1, 3])
@pytest.mark.parametrize("name", ["flat", "hnsw"])
def test_gpus_find_the_nearest_that_pass(tmp_path: Path, gpus: int, name: str) -> None:
    kind, rows, asked = KINDS[name], vectors(500), vectors(4, seed=1)
    mask = np.arange(500) % 7 == 0
    parameters = kind.parameters(500, 16)
    path = tmp_path / kind.files[0]
    dense.write(rows, kind, parameters, path)
    held = dense.Dense(path, kind, 500, 16, parameters, [FakeGpu(n) for n in range(gpus)])
    exact = np.where(mask, asked @ rows.astype(np.float16).astype(np.float32).T, -np.inf)
    for scores, ranking in zip(exact, held.search(asked, 100, Selection(mask)), strict=True):
        assert [row for row, _ in ranking] == np.argsort(-scores, kind="stable")[: mask.sum()].tolist()


def test_metadata_comes_back_with_the_passage(indexes: Path) -> None:
    index = Index(indexes / "flat")
    assert index.info.keys == ("lang", "peer", "share", "source", "year")
    assert index.passages([1, 4]) == {1: PASSAGES[1], 4: PASSAGES[4]}
    assert index.passages([1])[1].metadata == metadata(1)
    assert embedded_text(index.passages([1])[1]) == embedded_text(PASSAGES[1])


def test_without_metadata_there_is_no_file(tmp_path: Path) -> None:
    ColumnsWriter().write(tmp_path)
    assert not [*tmp_path.iterdir()]
    assert Columns(tmp_path, 5).keys == ()


def test_damaged_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / COLUMNS).write_bytes(b"PK nothing")
    with pytest.raises(IndexRefused, match=COLUMNS):
        Columns(tmp_path, 5)


@pytest.mark.parametrize(
    "held",
    [[], "x", {"a": {}}, {"a": [1]}, {"a": 2**60}, {"": 1}, {"a": "x" * 1001}, {f"k{n}": 1 for n in range(33)}],
)
def test_bad_metadata_is_named_by_file_and_line(tmp_path: Path, held: object) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        json.dumps({"id": "1", "text": "x"}) + "\n" + json.dumps({"id": "2", "text": "y", "metadata": held})
    )
    with pytest.raises(BadRecord, match=r"corpus\.jsonl:2: .*metadata"):
        build(Plan(corpus, "bad", tmp_path, ""), lambda _: ENCODER, lambda _: None)
