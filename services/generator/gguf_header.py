"""Reads the header of a GGUF file. The gguf package takes seconds for it, because a vocabulary is long."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")  # of a string
_TENSOR_COUNT_AT = 8  # behind the magic number and the version


class _Reader:
    """Reads values in file order. Raises struct.error or ValueError if they end too early."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self.at = 0

    def numbers(self, format: str, count: int = 1) -> tuple[Any, ...]:
        layout = f"<{count}{format}"
        self.at += struct.calcsize(layout)
        return struct.unpack_from(layout, self._data, self.at - struct.calcsize(layout))

    def string(self) -> str:
        (length,) = _LENGTH.unpack_from(self._data, self.at)  # without `numbers`: a vocabulary has 100,000 strings
        begin = self.at + _LENGTH.size
        if length > len(self._data) - begin:
            raise ValueError("a string is longer than the file")
        self.at = begin + length
        return self._data[begin : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.numbers(_format(kind))[0]
        kind, count = self.numbers("I")[0], self.numbers("Q")[0]
        if count > len(self._data):
            raise ValueError("an array is longer than the file")
        if kind in (_STRING, _ARRAY):
            return [self.value(kind) for _ in range(count)]
        return list(self.numbers(_format(kind), count))


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise ValueError(f"a value of the unknown type {kind}")
    return _FORMATS[kind]


def read(path: Path) -> dict[str, Any]:
    """Returns the metadata by key, with lists for arrays. Raises ValueError for another kind of file, and OSError."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return layout(data).metadata


def without_tensors(path: Path) -> bytes:
    """Returns a GGUF file that has the metadata of the one at `path` and no tensors. Raises as `read` does."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = layout(data)
        head = bytearray(data[: found.metadata_end])
    _LENGTH.pack_into(head, _TENSOR_COUNT_AT, 0)
    return bytes(head.ljust(aligned(len(head), found.metadata), b"\0"))


class Tensor(NamedTuple):
    """A tensor's place in the file. `shape` begins with the length of a row, `kind` is a GGMLQuantizationType."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int


class Layout(NamedTuple):
    """A file's metadata, its tensors, and the offset at which the metadata end."""

    metadata: dict[str, Any]
    tensors: list[Tensor]
    metadata_end: int


def layout(data: mmap.mmap | bytes) -> Layout:
    """Returns the layout of a file from its bytes. Raises ValueError for another kind of file."""
    if data[:4] != b"GGUF":
        raise ValueError("no GGUF file")
    reader = _Reader(data)
    try:
        _, version, tensor_count, count = *reader.numbers("I", 2), *reader.numbers("Q", 2)
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version}")
        metadata = {reader.string(): reader.value(reader.numbers("I")[0]) for _ in range(count)}
        metadata_end = reader.at
        found = []
        for _ in range(tensor_count):
            name, (dimensions,) = reader.string(), reader.numbers("I")
            found.append(Tensor(name, reader.numbers("Q", dimensions), *reader.numbers("I"), *reader.numbers("Q")))
    except struct.error as error:
        raise ValueError("the file ends in its header") from error
    begin = aligned(reader.at, metadata)
    return Layout(metadata, [tensor._replace(start=begin + tensor.start) for tensor in found], metadata_end)


def aligned(offset: int, metadata: dict[str, Any]) -> int:
    """Returns the first offset, not below the given one, at which the format lets data begin."""
    alignment = int(metadata.get("general.alignment", 32))
    return -(-offset // alignment) * alignment


def control_tokens(metadata: dict[str, Any]) -> dict[str, int]:
    """Returns the ids of the vocabulary's control tokens by their text.

    User-defined tokens count if they look like control tokens: llama.cpp treats some of them as such.
    """
    texts, kinds = metadata.get("tokenizer.ggml.tokens", []), metadata.get("tokenizer.ggml.token_type", [])
    unknown, control, user_defined = 2, 3, 4
    return {
        text: token
        for token, (text, kind) in enumerate(zip(texts, kinds, strict=False))
        if text and (kind in (unknown, control) or (kind == user_defined and text[0] in "<[" and text[-1] in ">]"))
    }
