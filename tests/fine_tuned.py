"""Writes a small model before and after all its weights were trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from safetensors.numpy import save_file

from common import model_card
from search_agent.types import ModelCard

CARD = ModelCard("s3", {"max_turns": 4}, data=("qa_train 0-1",))
SHAPES = {"token_embd": (3, 32), "blk.0.attn_q": (8, 32), "blk.0.attn_k": (4, 32), "blk.0.ffn_norm": (32,)}
NAMES = {
    "token_embd": "model.embed_tokens",
    "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
    "blk.0.attn_k": "model.layers.0.self_attn.k_proj",
    "blk.0.ffn_norm": "model.layers.0.post_attention_layernorm",
    "output": "lm_head",
}


def write_before(path: Path, architecture: str = "llama", **shapes: tuple[int, ...]) -> Path:
    """Writes the model before training, of two query heads and one key head, with all weights 0."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_array("tokenizer.ggml.tokens", ["a", "<|end|>", "é"])
    for name, shape in {**SHAPES, **shapes}.items():
        zeros = np.zeros(shape, np.float32)
        kind = Kind.Q4_1 if len(shape) == 2 else Kind.F32
        writer.add_tensor(f"{name}.weight", quantize(zeros, kind), raw_dtype=kind)
    writer.add_tensor("rope_freqs.weight", np.full(2, 7, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_trained(
    folder: Path, change: Mapping[str, np.ndarray | None] = {}, tied: bool = True
) -> dict[str, np.ndarray]:
    """Writes the model after training, each row of which has a value of its own, and returns its weights."""
    folder.mkdir(exist_ok=True)
    weights = {
        name: np.zeros(shape, np.float32) + np.arange(shape[0])[:, None]
        for name, shape in SHAPES.items()
        if len(shape) == 2
    }
    weights["blk.0.ffn_norm"] = np.linspace(0, 1, 32, dtype=np.float32)
    found = {name: weight for name, weight in {**weights, **change}.items() if weight is not None}
    save_file(
        {f"{NAMES.get(name, name)}.weight": np.float32(weight) for name, weight in found.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    model_card.write(folder, CARD)
    return found
