"""Writes LoRA adapters for the embedded model, in llama.cpp's format and in PEFT's."""

from __future__ import annotations

import array
import json
import random
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_peft(folder: Path) -> None:
    """Writes a similar adapter on query and output projections as a PEFT folder."""
    noise, width, rank = np.random.default_rng(0), 576, 2
    tensors = {
        f"base_model.model.model.layers.0.self_attn.{part}.lora_{side}.weight": noise.normal(size=shape).astype("f2")
        for part in ("q_proj", "o_proj")
        for side, shape in (("A", (rank, width)), ("B", (width, rank)))
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": 8.0, "peft_type": "LORA"}))


def write_lora(path: Path) -> None:
    """Writes a LoRA of rank 2 with random weights on the output projection of SmolLM2's first layer."""
    width, rank, name = 576, 2, "blk.0.attn_output.weight"
    noise = random.Random(0)

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    strings = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    header = b"GGUF" + struct.pack("<IQQ", 3, 2, len(strings) + 1)
    for key, value in strings.items():
        header += text(key) + struct.pack("<I", 8) + text(value)  # 8: string
    header += text("adapter.lora.alpha") + struct.pack("<If", 6, 8.0)  # 6: float32
    size = 4 * width * rank
    for suffix, shape, offset in ((".lora_a", (width, rank), 0), (".lora_b", (rank, width), size)):
        header += text(name + suffix) + struct.pack("<IQQIQ", 2, *shape, 0, offset)  # 0: float32
    header += b"\0" * (-len(header) % 32)
    path.write_bytes(header + array.array("f", (noise.gauss(0, 1) for _ in range(2 * width * rank))).tobytes())
