from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from search_agent.errors import Failure, RetrieverError
from search_agent.types import Mode, Retrieval
from services.retriever.errors import RerankerUnavailable
from services.retriever.rerankers import CrossEncoderReranker, load_reranker
from services.retriever.search import BatchedRetriever
from services.retriever.service import assemble
from services.retriever.settings import RetrieverSettings
from tests.unit.retriever.helpers import FakeEncoder, build_index


class FakeReranker:
    """Prefers the passage with the highest number, and records what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.batches: list[list[tuple[str, str]]] = []

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        self.batches.append([*pairs])
        return np.array([int(text.split()[1]) for _, text in pairs], dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexes")
    build_index(folder)
    return folder


@pytest.fixture
def reranker() -> FakeReranker:
    return FakeReranker("fake-ranker")


@pytest.fixture
def retriever(folder: Path, reranker: FakeReranker) -> BatchedRetriever:
    settings = RetrieverSettings(indexes=folder, reranker="fake-ranker", max_rerank=30)
    return assemble(settings, lambda _: FakeEncoder(), lambda _: reranker)


@pytest.mark.parametrize("mode", Mode)
async def test_the_best_of_a_mode_s_ranking_are_ranked_anew(retriever: BatchedRetriever, mode: Mode) -> None:
    [plain] = await retriever.search(["common text"], Retrieval(10, "", mode))
    [found] = await retriever.search(["common text"], Retrieval(3, "", mode, rerank=10))
    numbers = sorted((int(hit.id[1:]) for hit in plain), reverse=True)[:3]
    assert [hit.id for hit in found] == [f"p{number}" for number in numbers]
    assert [hit.score for hit in found] == numbers


async def test_at_least_top_k_are_ranked_anew(retriever: BatchedRetriever) -> None:
    [found] = await retriever.search(["common"], Retrieval(20, "", Mode.BM25, rerank=1))
    assert [hit.id for hit in found] == [f"p{number}" for number in range(19, -1, -1)]
    assert await retriever.search(["zebra"], Retrieval(5, "", Mode.BM25, rerank=5)) == [()]


async def test_concurrent_callers_share_one_call_and_get_their_own(
    retriever: BatchedRetriever, reranker: FakeReranker
) -> None:
    asked = [("common", 1 + n % 4, n % 3 * 8) for n in range(24)]
    alone = [await retriever.search([text], Retrieval(k, "", Mode.BM25, rerank)) for text, k, rerank in asked]
    reranker.batches.clear()
    together = await asyncio.gather(
        *(retriever.search([text], Retrieval(k, "", Mode.BM25, rerank)) for text, k, rerank in asked)
    )
    assert together == alone
    assert [len(batch) for batch in reranker.batches] == [16]  # of one query, each pair once
    reranker.batches.clear()
    await retriever.search(["common"], Retrieval(5, "", Mode.DENSE))
    assert reranker.batches == []


async def test_wrong_requests(folder: Path, retriever: BatchedRetriever) -> None:
    for top_k, rerank in ((1, 31), (31, 1)):
        with pytest.raises(RetrieverError, match="31 passages, at most 30 can be reranked") as caught:
            await retriever.search(["a"], Retrieval(top_k, "", Mode.DENSE, rerank))
        assert (caught.value.failure, caught.value.field) == (Failure.INVALID, "rerank")
    without = assemble(RetrieverSettings(indexes=folder), lambda _: FakeEncoder())
    with pytest.raises(RetrieverError, match="RETRIEVER_RERANKER names one") as caught:
        await without.search(["a"], Retrieval(1, "", Mode.DENSE, 10))
    assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, "rerank")


BATCHES: list[int] = []


class Narrow:
    """Stands for torch.autocast: rounds scores, and overflows sooner."""

    inside = False

    def __enter__(self) -> None:
        Narrow.inside = True

    def __exit__(self, *_: object) -> None:
        Narrow.inside = False


class FakeModel:
    """Stands for sentence_transformers.CrossEncoder."""

    def __init__(self, name: str) -> None:
        if name == "gone":
            raise OSError("gone is not a local folder\nmore lines")
        self.labels = 3 if name == "nli" else 1
        self.greatest = 10.0 if name == "wide" else 1.0
        self.tokenizer = SimpleNamespace()

    def predict(self, pairs: list[tuple[str, str]], batch_size: int, **_: Any) -> np.ndarray:
        scores = np.array([len(text) for _, text in pairs], dtype=np.float64)
        if Narrow.inside:
            scores = scores + (0.5 if self.greatest < 10 else np.inf)
        BATCHES.append(batch_size)
        return scores if self.labels == 1 else np.stack([scores] * self.labels, axis=1)


MODULE = SimpleNamespace(CrossEncoder=FakeModel)


def test_a_cross_encoder_scores_pairs() -> None:
    scores = CrossEncoderReranker("small", MODULE).scores([("q", "abc"), ("q", "a")])
    assert (scores.dtype, scores.tolist()) == (np.float32, [3, 1])


def test_batch_and_precision_are_those_given() -> None:
    BATCHES.clear()
    assert CrossEncoderReranker("small", MODULE, 128, Narrow()).scores([("q", "abc"), ("q", "a")]).tolist() == [
        3.5,
        1.5,
    ]
    assert set(BATCHES) == {128}
    assert not Narrow.inside


def test_a_model_too_wide_for_the_precision_keeps_its_own() -> None:
    assert CrossEncoderReranker("wide", MODULE, 128, Narrow()).scores([("q", "abc"), ("q", "a")]).tolist() == [3, 1]


@pytest.mark.parametrize(("name", "reason"), [("gone", "cannot be loaded: gone is not"), ("nli", "gives 3 scores")])
def test_a_model_that_is_no_reranker(name: str, reason: str) -> None:
    with pytest.raises(RerankerUnavailable, match=f"reranker {name} {reason}") as caught:
        CrossEncoderReranker(name, MODULE)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(find_spec("sentence_transformers") is not None, reason="sentence-transformers is installed")
def test_a_missing_library_says_which_extra_to_install() -> None:
    with pytest.raises(RerankerUnavailable, match=r"pip install 'search-agent\[sentence-transformers\]'"):
        load_reranker("any/model")
