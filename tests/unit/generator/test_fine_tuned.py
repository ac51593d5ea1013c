"""A model of which all weights were trained, from transformers' form to GGUF."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from safetensors.numpy import save_file

from common import model_card
from services.generator import fine_tuned, gguf_header
from services.generator.fine_tuned import to_gguf
from tests.fine_tuned import CARD, write_before, write_trained


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(
    ("architecture", "order"), [("llama", [0, 2, 1, 3]), ("qwen3", [0, 1, 2, 3])]
)  # of a head's rows; a Llama's are interleaved
def test_weights_take_the_place_of_those_before(tmp_path: Path, architecture: str, order: list[int]) -> None:
    like, out = write_before(tmp_path / "like.gguf", architecture), tmp_path / "checkpoint" / "model.gguf"
    weights = write_trained(tmp_path / "model")
    out.parent.mkdir()
    assert to_gguf(tmp_path / "model", like, out) == out
    found = tensors(out)
    assert found["blk.0.attn_q.weight"][:, 0].round(1).tolist() == [*order, *(4 + row for row in order)]
    assert found["blk.0.attn_k.weight"][:, 0].round(1).tolist() == order
    assert np.abs(found["token_embd.weight"] - weights["token_embd"]).max() < 0.01
    assert (found["blk.0.ffn_norm.weight"] == weights["blk.0.ffn_norm"]).all()
    assert found["rope_freqs.weight"].tolist() == [7, 7]
    assert gguf_header.read(out) == gguf_header.read(like)
    assert model_card.read(out) == CARD
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.gguf", model_card.FILE]


def test_a_head_that_is_the_embedding_may_be_stored_twice_or_once(tmp_path: Path) -> None:
    embedding = write_trained(tmp_path / "model")["token_embd"]
    to_gguf(tmp_path / "model", write_before(tmp_path / "twice.gguf", output=(3, 32)), tmp_path / "out.gguf")
    assert (
        tensors(tmp_path / "out.gguf")["output.weight"] == tensors(tmp_path / "out.gguf")["token_embd.weight"]
    ).all()
    write_trained(tmp_path / "model", {"output": embedding})
    to_gguf(tmp_path / "model", write_before(tmp_path / "once.gguf"), tmp_path / "out.gguf")
    assert "output.weight" not in tensors(tmp_path / "out.gguf")
    write_trained(tmp_path / "model", {"output": embedding + 5}, tied=False)
    to_gguf(tmp_path / "model", tmp_path / "twice.gguf", tmp_path / "out.gguf")
    assert tensors(tmp_path / "out.gguf")["output.weight"][:, 0].round(1).tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"blk.0.attn_k": None}, r"no weights for blk\.0\.attn_k\.weight"),
        ({"score": np.zeros((1, 32))}, r"no place for score\.weight"),
        ({"model.layers.1.self_attn.q_proj": np.zeros((8, 32))}, r"no place for model\.layers\.1\."),
        ({"token_embd": np.zeros((4, 32))}, r"token_embd\.weight has another shape"),
    ],
)
def test_another_model_is_refused_and_leaves_nothing(
    tmp_path: Path, change: Mapping[str, np.ndarray | None], problem: str
) -> None:
    like = write_before(tmp_path / "like.gguf")
    write_trained(tmp_path / "model", change)
    with pytest.raises(ValueError, match=problem):
        to_gguf(tmp_path / "model", like, tmp_path / "model.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["like.gguf", "model"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"\xff" * 20,
        lambda whole: (2).to_bytes(8, "little") + b"[]",
        lambda whole: (2**40).to_bytes(8, "little") + whole[8:],
        lambda whole: whole[:-200],
    ],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    monkeypatch.setattr(
        sys, "argv", ["", *map(str, (tmp_path / "model", write_before(tmp_path / "like.gguf"), tmp_path / "out"))]
    )
    with pytest.raises(SystemExit, match=r"model\.safetensors: not in safetensors' format"):
        fine_tuned.main()


def test_weights_of_another_type_are_refused(tmp_path: Path) -> None:
    write_trained(tmp_path / "model")
    save_file({"model.embed_tokens.weight": np.zeros((3, 32), np.int8)}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: weights of type I8 "):
        to_gguf(tmp_path / "model", write_before(tmp_path / "like.gguf"), tmp_path / "model.gguf")
