from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from search_agent.errors import Failure, RetrieverError
from search_agent.types import Mode, Passage, Retrieval
from services.retriever.errors import EncoderUnavailable, IndexRefused
from services.retriever.search import BatchedRetriever
from services.retriever.service import assemble
from services.retriever.settings import RetrieverSettings
from tests.unit.retriever.helpers import FakeEncoder, build_index


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexes")
    build_index(folder, name="main")
    build_index(folder, count=5, name="words", dense=False)
    return folder


def settings(folder: Path, **changes: object) -> RetrieverSettings:
    return RetrieverSettings(**{"indexes": folder, "default_index": "main", "max_top_k": 50, **changes})


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def retriever(folder: Path, encoder: FakeEncoder) -> BatchedRetriever:
    made = assemble(settings(folder), lambda _: encoder)
    encoder.query_batches.clear()
    return made


def passage_text(n: int) -> str:
    """The fake encoder gives equal vectors to equal texts only."""
    return f"Title {n}\ncommon word{n} text"


async def test_dense_finds_the_nearest(retriever: BatchedRetriever) -> None:
    [found] = await retriever.search([passage_text(7)], Retrieval(3, "", Mode.DENSE))
    assert found[0] == Passage("p7", "Title 7", "common word7 text", found[0].score)
    assert found[0].score == pytest.approx(1, abs=1e-3)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    assert len(found) == 3


async def test_bm25_gives_only_what_shares_a_word(retriever: BatchedRetriever, encoder: FakeEncoder) -> None:
    found = await retriever.search(["word7 WORDS", "common", "zebra", "the", "?!"], Retrieval(50, "", Mode.BM25))
    assert [hit.id for hit in found[0]] == ["p7"]
    assert [hit.id for hit in found[1]] == [f"p{n}" for n in range(40)]  # ties in corpus order
    assert found[2:] == [(), (), ()]
    assert all(hit.score > 0 for hits in found for hit in hits)
    assert encoder.query_batches == []


async def test_hybrid_fuses_both(retriever: BatchedRetriever) -> None:
    [found] = await retriever.search([passage_text(7)], Retrieval(50, "", Mode.HYBRID))
    assert found[0].id == "p7"
    assert found[0].score == pytest.approx(2 / 61)
    assert len({hit.id for hit in found}) == 40
    [unknown] = await retriever.search(["zebra"], Retrieval(5, "", Mode.HYBRID))
    [dense] = await retriever.search(["zebra"], Retrieval(5, "", Mode.DENSE))
    assert [hit.id for hit in unknown] == [hit.id for hit in dense]


@pytest.mark.parametrize("max_batch", [1, 64])
async def test_any_number_of_texts_is_embedded(folder: Path, max_batch: int) -> None:
    encoder = FakeEncoder()
    retriever = assemble(settings(folder, max_batch=max_batch), lambda _: encoder)
    texts = [f"text {number}" for number in range(70)]
    expected = [vector.astype("<f4").tobytes() for vector in encoder.passages(texts)]
    assert await retriever.embed(texts, "main", as_passages=True) == expected


async def test_more_than_there_is_gives_all_there_is(retriever: BatchedRetriever) -> None:
    for mode in (Mode.DENSE, Mode.BM25, Mode.HYBRID):
        [found] = await retriever.search(["common"], Retrieval(50, "main", mode))
        assert len(found) == 40


async def test_concurrent_requests_share_encodes_and_get_their_own(
    retriever: BatchedRetriever, encoder: FakeEncoder
) -> None:
    modes = [Mode.DENSE, Mode.BM25, Mode.HYBRID]
    asked = [(passage_text(n % 10), 1 + n % 7, modes[n % 3]) for n in range(60)]
    alone = [(await retriever.search([text], Retrieval(k, "", mode)))[0] for text, k, mode in asked]
    encoder.query_batches.clear()
    merged = await asyncio.gather(*(retriever.search([text], Retrieval(k, "", mode)) for text, k, mode in asked))
    assert [[hit.id for hit in found] for [found] in merged] == [[hit.id for hit in each] for each in alone]
    assert [len(batch) for batch in encoder.query_batches] == [10]  # 40 queries, 10 of them distinct


@pytest.mark.parametrize("mode", [Mode.DENSE, Mode.BM25, Mode.HYBRID])
async def test_a_batch_of_any_size_and_content_gives_a_list_a_query(
    retriever: BatchedRetriever, encoder: FakeEncoder, mode: Mode
) -> None:
    good, long = passage_text(7), "word3 " * 10_000
    queries = ["", good, " \n\0", long, f"{good}\0", *(passage_text(n % 10) for n in range(2500))]
    found = await retriever.search(queries, Retrieval(1, mode=mode))
    assert [len(hits) for hits in found[:5]] == [0, 1, 0, 1, 1]
    assert [hits[0].id for hits in (found[1], *found[4:])] == ["p7", "p7", *(f"p{n % 10}" for n in range(2500))]
    assert max((len(text) for batch in encoder.query_batches for text in batch), default=0) <= 4000
    assert max((len(batch) for batch in encoder.query_batches), default=0) <= 64


async def test_a_batch_without_a_query_to_search_for(retriever: BatchedRetriever) -> None:
    assert await retriever.search(["", " "], Retrieval(3)) == [(), ()]


async def test_a_query_that_breaks_the_encoder_fails_alone(retriever: BatchedRetriever) -> None:
    results = await asyncio.gather(
        *(
            retriever.search([text], Retrieval(1, "", Mode.DENSE))
            for text in (passage_text(1), "poison", passage_text(2))
        ),
        return_exceptions=True,
    )
    assert results[0][0][0].id == "p1"  # type: ignore[index]
    assert isinstance(results[1], RuntimeError)
    assert results[2][0][0].id == "p2"  # type: ignore[index]


@pytest.mark.parametrize(
    ("queries", "top_k", "index", "mode", "failure", "field"),
    [
        ([], 5, "", Mode.DENSE, Failure.INVALID, "queries"),
        (["a"], 0, "", Mode.DENSE, Failure.INVALID, "top_k"),
        (["a"], 51, "", Mode.DENSE, Failure.INVALID, "top_k"),
        (["a"], 5, "gone", Mode.DENSE, Failure.NOT_FOUND, "index"),
        (["a"], 5, "words", Mode.DENSE, Failure.UNSUPPORTED, "mode"),
        (["a"], 5, "words", Mode.HYBRID, Failure.UNSUPPORTED, "mode"),
    ],
)
async def test_wrong_requests_name_the_field(
    retriever: BatchedRetriever,
    queries: list[str],
    top_k: int,
    index: str,
    mode: Mode,
    failure: Failure,
    field: str,
) -> None:
    with pytest.raises(RetrieverError) as caught:
        await retriever.search(queries, Retrieval(top_k, index, mode))
    assert (caught.value.failure, caught.value.field) == (failure, field)


async def test_an_index_without_vectors_needs_no_encoder(tmp_path: Path) -> None:
    build_index(tmp_path, count=5, name="words", dense=False)

    def load(name: str) -> FakeEncoder:
        raise AssertionError(name)

    retriever = assemble(RetrieverSettings(indexes=tmp_path), load)
    assert [(index.name, index.is_default, index.modes) for index in await retriever.indexes()] == [
        ("words", True, (Mode.BM25,))
    ]
    for mode in (Mode.BM25, Mode.AUTO):
        [found] = await retriever.search(["word3"], Retrieval(5, "", mode))
        assert [hit.id for hit in found] == ["p3"]
    with pytest.raises(RetrieverError, match="without hybrid search; it has bm25") as caught:
        await retriever.search(["word3"], Retrieval(5, "", Mode.HYBRID))
    assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, "mode")


def test_the_default_index_must_be_told_and_exist(folder: Path) -> None:
    with pytest.raises(IndexRefused, match="holds main, words; name one in RETRIEVER_DEFAULT_INDEX"):
        assemble(settings(folder, default_index=""), lambda _: FakeEncoder())
    with pytest.raises(IndexRefused, match="has main, words, not RETRIEVER_DEFAULT_INDEX='gone'"):
        assemble(settings(folder, default_index="gone"), lambda _: FakeEncoder())


def test_an_encoder_of_another_size_is_refused(folder: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="index main has 16 dimensions, its encoder fake 8"):
        assemble(settings(folder), lambda _: FakeEncoder(dim=8))
