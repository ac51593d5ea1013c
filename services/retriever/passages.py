"""Passages on disk: compressed blocks of JSON lines, memory-mapped."""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from search_agent.types import Passage
from services.retriever.columns import ColumnsWriter
from services.retriever.errors import IndexRefused

BLOBS, OFFSETS = "passages.bin", "passages.idx.npy"
# Passages a block; part of the format. Larger blocks compress better and cost more to open: blocks of 16 Wikipedia
# paragraphs take 42 % of their size and 30 µs each, blocks of 64 take 38 % and 140 µs.
BLOCK = 16


def embedded_text(passage: Passage) -> str:
    """Returns what encoders, BM25 and rerankers read of a passage: its title, if it has one, and its text."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def as_line(passage: Passage) -> str:
    """Returns a passage as it is stored: a JSON array of id, title, text and, if there is any, metadata."""
    parts = [passage.id, passage.title, passage.text, *([passage.metadata] if passage.metadata else [])]
    return json.dumps(parts, ensure_ascii=False)


def of_line(line: str | bytes) -> Passage:
    """Returns the passage that `as_line` wrote."""
    id, title, text, *more = json.loads(line)
    return Passage(id, title, text, metadata=more[0] if more else {})


class PassageWriter:
    """Writes passages and their metadata into a folder; offsets and columns only when it closes without an error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / BLOBS).open("wb")
        self._lines: list[str] = []
        self._offsets = [0]
        self._columns = ColumnsWriter()

    def __enter__(self) -> PassageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._lines:
            self._end_block()
        self._file.close()
        if kind is None:
            np.save(self._folder / OFFSETS, np.array(self._offsets, dtype=np.uint64))
            self._columns.write(self._folder)

    def add(self, passage: Passage) -> None:
        self._lines.append(as_line(passage))
        self._columns.add(passage.metadata)
        if len(self._lines) == BLOCK:
            self._end_block()

    def _end_block(self) -> None:
        written = self._file.write(zlib.compress("\n".join(self._lines).encode(), 9))
        self._offsets.append(self._offsets[-1] + written)
        self._lines.clear()


class PassageStore:
    """Reads passages by row number, from 0. Safe to use from several threads.

    Raises IndexRefused where the files do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / BLOBS
        try:
            self._offsets = np.load(folder / OFFSETS, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise IndexRefused(folder / OFFSETS, f"unreadable: {error}") from error
        offsets = self._offsets
        if offsets.ndim != 1 or offsets.dtype != np.uint64 or len(offsets) < 2 or offsets[0] != 0:
            raise IndexRefused(folder / OFFSETS, "not a list of block offsets")
        if not (offsets[1:] > offsets[:-1]).all() or offsets[-1] != self._path.stat().st_size:
            raise IndexRefused(folder / OFFSETS, f"does not fit {BLOBS}")
        with self._path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        last = len(offsets) - 2
        self._count = last * BLOCK + len(self._block(last))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Passage]:
        return self.iterate(0)

    def iterate(self, start: int) -> Iterator[Passage]:
        """Yields all passages from row `start` on."""
        for block in range(start // BLOCK, len(self._offsets) - 1):
            skip = max(0, start - block * BLOCK)
            for line in self._block(block)[skip:]:
                yield of_line(line)

    def get(self, rows: Sequence[int]) -> dict[int, Passage]:
        """Returns the passages of `rows` by row; each block is opened once."""
        found: dict[int, Passage] = {}
        blocks: dict[int, list[bytes]] = {}
        for row in rows:
            if row not in found:
                block, line = divmod(row, BLOCK)
                if block not in blocks:
                    blocks[block] = self._block(block)
                found[row] = of_line(blocks[block][line])
        return found

    def _block(self, number: int) -> list[bytes]:
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        try:
            return zlib.decompress(self._map[start:end]).split(b"\n")
        except zlib.error as error:
            raise IndexRefused(self._path, f"block {number} is damaged: {error}") from error
