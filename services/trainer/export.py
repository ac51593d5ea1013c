"""A LoRA adapter as PEFT writes it, as the GGUF file that llama.cpp loads."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors import deserialize

_LAYER = re.compile(r"layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight$")
_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


class ExportProblem(ValueError):
    """An adapter that has no GGUF form; the message names the file."""


def adapter_to_gguf(adapter: Path, model: Path, out: Path) -> Path:
    """Writes the PEFT folder `adapter` for a Llama-shaped model as `out`, in float16.

    `model` is the Hugging Face folder that the adapter is for: its config.json tells the heads. Raises
    ExportProblem.
    """
    heads = _config(model / "config.json")
    architecture = heads["model_type"]
    if architecture != "llama":
        raise ExportProblem(f"{model / 'config.json'}: adapters of {architecture!r} models are not exported yet")
    lora = _config(adapter / "adapter_config.json")
    tensors = _tensors(adapter / "adapter_model.safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".draft")
    writer = gguf.GGUFWriter(draft, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(lora["lora_alpha"]))
    for name, weight in sorted(tensors.items()):
        found = _LAYER.search(name)
        if not found or found[2] not in _NAMES:
            raise ExportProblem(f"{adapter / 'adapter_model.safetensors'}: no place in GGUF for {name}")
        layer, part, side = found.groups()
        if side == "B" and part in ("q_proj", "k_proj"):
            weight = _interleave(weight, heads["num_attention_heads" if part == "q_proj" else "num_key_value_heads"])
        writer.add_tensor(f"blk.{layer}.{_NAMES[part]}.weight.lora_{side.lower()}", weight.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(draft, out)
    return out


def _interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in llama.cpp's order: its rotary embedding turns neighbours, where transformers turns two halves."""
    rows, rank = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)


def _tensors(file: Path) -> dict[str, np.ndarray]:
    """By name. verl saves adapters in bfloat16, which numpy has not: they come as float32."""
    try:
        found = dict(deserialize(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise ExportProblem(f"{file}: {error}") from error
    return {name: _decode(**stored) for name, stored in found.items()}


def _decode(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).reshape(shape)


def _config(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportProblem(f"{file}: {error}") from error
    assert isinstance(found, dict)
    return found
