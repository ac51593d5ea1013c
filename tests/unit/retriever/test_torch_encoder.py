"""The encoder over the real sentence-transformers, with a model of random weights."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.retriever.errors import EncoderUnavailable
from services.retriever.forward import padded
from services.retriever.torch_encoder import SentenceTransformerEncoder

sentence_transformers: Any = pytest.importorskip("sentence_transformers")

WORDS = ["query", "passage", ":", *(f"word{number}" for number in range(200))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bench.encoder_folder import write

    return write(tmp_path_factory.mktemp("models") / "e5-tiny", WORDS, hidden=32, layers=2, max_tokens=64)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(str(folder), sentence_transformers)


def texts(count: int, seed: int = 0) -> list[str]:
    drawn = np.random.default_rng(seed)
    return [" ".join(drawn.choice(WORDS, drawn.integers(1, 100))) for _ in range(count)]


def test_no_attention_that_is_planned_for_each_shape(encoder: SentenceTransformerEncoder) -> None:
    import torch

    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_vectors_are_those_of_the_library(encoder: SentenceTransformerEncoder, folder: Path) -> None:
    asked = texts(300)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(
        [f"passage: {text}" for text in asked], normalize_embeddings=True
    )
    ours = encoder.passages(asked)
    assert (ours.dtype, ours.shape) == (np.float32, (300, encoder.dim))
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(encoder.queries(asked[:1]) - theirs[:1]).max() > 1e-3  # another prefix
    assert encoder.queries([]).shape == (0, encoder.dim)


def test_prompts_of_the_configuration_are_read_and_overridden(folder: Path, tmp_path: Path) -> None:
    path = shutil.copytree(folder, tmp_path / "encoder")  # a name that says nothing
    asked = texts(5)
    plain = SentenceTransformerEncoder(str(path), sentence_transformers)
    assert plain.parameters == {"query_prefix": "", "passage_prefix": ""}
    configuration = path / "config_sentence_transformers.json"
    fields = json.loads(configuration.read_text())
    configuration.write_text(json.dumps(fields | {"prompts": {"query": "query: ", "document": "passage: "}}))
    told = SentenceTransformerEncoder(str(path), sentence_transformers)
    library = sentence_transformers.SentenceTransformer(str(path), device="cpu")
    theirs = library.encode(asked, prompt_name="query", normalize_embeddings=True)
    assert np.abs(told.queries(asked) - theirs).max() < 1e-5
    given = {"query_prefix": "", "passage_prefix": ""}
    overridden = SentenceTransformerEncoder(str(path), sentence_transformers, given)
    assert np.abs(overridden.queries(asked) - plain.queries(asked)).max() < 1e-6


def test_many_texts_are_encoded_in_shares(encoder: SentenceTransformerEncoder) -> None:
    asked = texts(100)
    many = encoder.passages(asked * 45)
    assert np.abs(many.reshape(45, 100, -1) - encoder.passages(asked)).max() < 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_are_padded_as_the_library_does(folder: Path, side: str) -> None:
    tokenizer = sentence_transformers.SentenceTransformer(str(folder), device="cpu").tokenizer
    ids = tokenizer(texts(20))["input_ids"]
    theirs = tokenizer.pad({"input_ids": ids}, padding_side=side, return_tensors="np")
    ours = padded(ids, tokenizer.pad_token_id, side == "left")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name] == theirs[name]).all()


def test_several_callers_at_once(encoder: SentenceTransformerEncoder) -> None:
    parts = [texts(50, seed) for seed in range(8)]
    alone = [encoder.passages(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(encoder.passages, parts), strict=True):
            assert np.abs(one - other).max() < 1e-6


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match=r"encoder .*gone cannot be loaded: ") as caught:
        SentenceTransformerEncoder(str(tmp_path / "gone"), sentence_transformers)
    assert "\n" not in str(caught.value)


def test_after_an_error_no_further_share_begins(encoder: SentenceTransformerEncoder) -> None:
    told, begun = threading.Event(), []

    class Broken(Exception):
        pass

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        begun.append(threading.current_thread())
        if begun[-1] is not threading.main_thread():
            told.wait(10)
        raise Broken

    with pytest.raises(Broken):
        encoder._encode(["word1"] * 5 * 2048, tokenize)
    told.set()
    assert len(encoder.passages(["word1"] * 3 * 2048)) == 3 * 2048  # by the same threads, after those shares
    assert len(begun) <= 2
