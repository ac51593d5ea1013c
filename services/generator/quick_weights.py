"""Copies a GGUF model into a form whose prompts llama.cpp reads faster.

llama.cpp multiplies Q8_0 weights by many tokens at once, and Q4_1 weights by one token at a time. A Q8_0 weight keeps
the value of a Q4_1 weight to 1/254 of the largest of its block.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from services.generator import gguf_header
from services.generator.gguf_header import Tensor, aligned

_SLOW, _QUICK = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0


def write(model: Path, out: Path) -> None:
    """Writes `model` as `out`, its Q4_1 tensors as Q8_0 and all else as it is.

    Raises OSError, and ValueError for a file that is not a whole GGUF model.
    """
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        layout = gguf_header.layout(data)
        head, end = bytearray(data[: layout.metadata_end]), 0
        for tensor in layout.tensors:
            name, kind = tensor.name.encode(), _kind(tensor)
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            head += struct.pack("<Q", len(name)) + name + shape + struct.pack("<IQ", kind, end)
            end = aligned(end + _size(tensor, kind), layout.metadata)
        begin = aligned(len(head), layout.metadata)
        with out.open("wb") as copy:
            copy.write(head.ljust(begin, b"\0"))
            for tensor in layout.tensors:
                stored = data[tensor.start : tensor.start + _size(tensor, tensor.kind)]
                if len(stored) < _size(tensor, tensor.kind):
                    raise ValueError(f"the file ends in tensor {tensor.name}")
                copy.write(_quick(stored) if tensor.kind == _SLOW else stored)
                copy.write(bytes(aligned(copy.tell(), layout.metadata) - copy.tell()))


def _kind(tensor: Tensor) -> int:
    return _QUICK if tensor.kind == _SLOW else tensor.kind


def _size(tensor: Tensor, kind: int) -> int:
    """Returns the bytes of a tensor that is stored as `kind`."""
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return int(np.prod(tensor.shape)) // values * size


def _quick(stored: bytes) -> bytes:
    """Returns Q4_1 blocks as Q8_0 blocks."""
    # One row: gguf works through groups of rows, which is slow where they are short.
    return quantize(dequantize(np.frombuffer(stored, np.uint8).reshape(1, -1), _SLOW), _QUICK).tobytes()
