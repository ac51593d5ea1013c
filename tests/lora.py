"""A LoRA adapter for the embedded model, as llama.cpp loads it."""

from __future__ import annotations

import array
import random
import struct
from pathlib import Path


def write_lora(path: Path) -> None:
    """A LoRA of rank 2 with noise, on the output projection of SmolLM2's first layer."""
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
