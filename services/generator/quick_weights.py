"""Copies a GGUF model into a form whose prompts are read faster, with its weights as they are or changed.

llama.cpp multiplies Q8_0 weights by many tokens at once, and Q4_1 weights by one token at a time. A Q8_0 weight keeps
the value that it is given to 1/254 of the largest of its block.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import dequantize

from services.generator import gguf_header
from services.generator.gguf_header import Tensor, aligned

_SLOW, _QUICK, _WHOLE = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0, GGMLQuantizationType.F32
_UNQUANTISED = (_WHOLE, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
_FILE_TYPE = "general.file_type"

# From a tensor's values, an array (rows, columns) or (values,) in float32, to those that it gets. Raises ValueError if
# the shape is not the one that it expects.
Change = Callable[[np.ndarray], np.ndarray]


def write(model: Path, out: Path, changes: Mapping[str, Change] | None = None) -> None:
    """Writes `model` as `out`: Q4_1 matrices and those that change as Q8_0, and all else as it is.

    If a model that is not quantised changes, all its matrices become Q8_0: OpenVINO takes the matrices of a file for
    quantised or not by its general.file_type.

    Raises OSError, and ValueError for a file that is not a whole GGUF model and for a change that does not fit it.
    """
    changes = changes or {}
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        layout = gguf_header.layout(data)
        if strange := changes.keys() - {tensor.name for tensor in layout.tensors}:
            raise ValueError(f"there is no tensor {min(strange)}")
        head, end = bytearray(data[: layout.metadata_end]), 0
        if changes:
            _say_quantised(head, layout.metadata)
        for tensor in layout.tensors:
            name, kind = tensor.name.encode(), _kind(tensor, changes)
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
                kind = _kind(tensor, changes)
                same = tensor.name not in changes and kind == tensor.kind
                copy.write(stored if same else _changed(tensor, stored, kind, changes.get(tensor.name)))
                copy.write(bytes(aligned(copy.tell(), layout.metadata) - copy.tell()))


def _kind(tensor: Tensor, changes: Mapping[str, Change]) -> int:
    """Returns the type that the tensor has in the copy."""
    matrix, changed = len(tensor.shape) == 2 and tensor.shape[0] % 32 == 0, tensor.name in changes
    if tensor.kind == _SLOW or (matrix and (changed or (changes and tensor.kind in _UNQUANTISED))):
        return _QUICK
    return _WHOLE if changed else tensor.kind


def _say_quantised(head: bytearray, metadata: Mapping[str, Any]) -> None:
    """Turns the file type of an unquantised model in a file's header into Q8_0's."""
    if metadata.get(_FILE_TYPE) in (LlamaFileType.ALL_F32, LlamaFileType.MOSTLY_F16, LlamaFileType.MOSTLY_BF16):
        at = head.index(struct.pack("<Q", len(_FILE_TYPE)) + _FILE_TYPE.encode()) + 8 + len(_FILE_TYPE) + 4
        struct.pack_into("<I", head, at, LlamaFileType.MOSTLY_Q8_0)


def _size(tensor: Tensor, kind: int) -> int:
    """Returns the bytes of a tensor that is stored as `kind`."""
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return int(np.prod(tensor.shape)) // values * size


def _changed(tensor: Tensor, stored: bytes, kind: int, change: Change | None) -> bytes:
    """Returns a tensor as Q8_0 or F32 blocks, after the change if there is one."""
    # One row: gguf works through groups of rows, which is slow where they are short.
    values = dequantize(np.frombuffer(stored, np.uint8).reshape(1, -1), GGMLQuantizationType(tensor.kind))
    if change:
        try:
            values = change(values.reshape(tensor.shape[::-1])).reshape(1, -1)
        except ValueError:
            raise ValueError(f"the change of {tensor.name} has another shape") from None
    return _q8_0(values) if kind == _QUICK else values.astype("<f4").tobytes()


def _q8_0(values: np.ndarray) -> bytes:
    """Returns blocks of 32 numbers as Q8_0 does: a scale in float16, and whole numbers from -127 to 127.

    gguf's own function rounds ties away from zero and takes several times as long.
    """
    blocks = values.reshape(-1, 32)
    # reduceat takes a fraction of the time that max(1) takes for so short rows.
    scale = np.maximum.reduceat(np.abs(values).ravel(), np.arange(0, values.size, 32)) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    whole = blocks * inverse[:, None]
    out = np.empty((len(blocks), 34), np.uint8)
    out[:, :2] = scale.astype("<f2")[:, None].view(np.uint8)
    out[:, 2:].view(np.int8)[:] = np.rint(whole, out=whole)
    return out.tobytes()
