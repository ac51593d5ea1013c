"""Nearest vectors by inner product, with FAISS: writes, opens and searches an index of any kind."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from services.retriever import kinds
from services.retriever.columns import Selection
from services.retriever.errors import BuildRefused, IndexRefused
from services.retriever.fusion import Ranking
from services.retriever.gpu import Device
from services.retriever.kinds import EXACT, FAISS, KINDS, VECTORS, Kind, Parameters
from services.retriever.rows import Rows

_CHUNK = 65_536  # rows widened to float32 at a time
# Vectors of fewer numbers (200 MB, 20 ms to read) are searched by one thread: waking others takes longer
# than it saves wherever the cores have something else to do.
_THREADED_FROM = 50_000_000


class Dense:
    """Opened vectors of a kind. Raises IndexRefused where `path` is no index of `kind` with `count` rows of `dim`.

    A FAISS file is memory-mapped, so that what is searched is paged in and can be paged out again. The rows of a .npy
    file are widened to float32 in memory, 4 x dim bytes a row. With `gpus`, they hold the vectors.
    """

    def __init__(
        self, path: Path, kind: Kind, count: int, dim: int, parameters: Parameters, gpus: Sequence[Device] = ()
    ) -> None:
        self._count, self._dim = count, dim
        stored = Stored(path, kind, count, dim)
        if gpus and not kind.gpus:
            able = ", ".join(sorted(each.name for each in KINDS.values() if each.gpus))
            raise IndexRefused(path, f"{kind.name} is not searched on GPUs, only {able}")
        if gpus:
            self._searched = kind.hold(stored, parameters, gpus)
        else:
            self._searched = kinds.Held(kind, stored.faiss if stored.faiss is not None else _widen(stored), parameters)

    def search(self, vectors: np.ndarray, k: int, selection: Selection | None = None) -> list[Ranking]:
        """Returns up to k nearest rows, best first, for each row of `vectors`, float32 (queries, dim).

        ivf and ivf-pq find fewer where the lists they read hold fewer. hnsw looks at max(ef_search, k) candidates. With
        a `selection`, rows outside it are skipped, and k of its rows are found if there are that many.
        """
        k = min(k, selection.count if selection else self._count)
        if not k:
            return [[] for _ in vectors]
        with _threads_for(self._count * self._dim):
            scores, rows = self._searched.search(vectors, k, selection)
        return [
            [(row, score) for row, score in zip(found, scored, strict=True) if row >= 0]
            for found, scored in zip(rows.tolist(), scores.tolist(), strict=True)
        ]


class Stored:
    """The vectors in an index folder's file, read a range of rows at a time: float16 of a .npy file, else float32.

    `faiss` is the opened FAISS index, None for a .npy file. Raises IndexRefused.
    """

    def __init__(self, path: Path, kind: Kind, count: int, dim: int) -> None:
        self.path = path
        self.shape = (count, dim)
        self.faiss: Any = _read(path, kind, count, dim) if path.name == FAISS else None
        self._rows = None if self.faiss is not None else _open_npy(path, count, dim)

    def __getitem__(self, rows: slice) -> np.ndarray:
        if self._rows is not None:
            return self._rows[rows]
        start, stop, _ = rows.indices(self.shape[0])
        found: np.ndarray = self.faiss.reconstruct_n(start, stop - start)
        return found


def exact_rows(path: Path, kind: Kind, count: int, dim: int) -> Rows:
    """Returns the vectors of a file, to make another kind from. Raises BuildRefused if the kind is lossy."""
    if not kind.exact:
        raise BuildRefused(f"{path}: {kind.name} does not keep the vectors as they were; start from {', '.join(EXACT)}")
    return Stored(path, kind, count, dim)


def write(rows: Rows, kind: Kind, parameters: Parameters, path: Path) -> None:
    """Writes `rows` to `path`: float16 if it is a kind's .npy file, else a FAISS index of `kind`.

    The same rows give the same bytes on one machine, except for hnsw: its links depend on the timing of threads, and
    are reproducible only with OMP_NUM_THREADS=1.
    """
    count, dim = rows.shape
    if path.name == VECTORS:
        copy = new_rows(path, count, dim)
        for start in range(0, count, _CHUNK):
            copy[start : start + _CHUNK] = rows[start : start + _CHUNK]
        copy.flush()
        return
    index = kind.empty(dim, parameters)
    if not index.is_trained:
        index.train(_sample(rows, kind.trained_on(parameters)))
    for start in range(0, count, _CHUNK):
        index.add(np.ascontiguousarray(rows[start : start + _CHUNK], dtype=np.float32))
    _faiss().write_index(index, str(path))


def new_rows(path: Path, count: int, dim: int) -> np.memmap:
    """Returns a mapped .npy file of float16 rows to fill.

    Reserves its space on the disk at once and raises OSError if there is too little: if a page of a mapped file finds
    no space later, the system kills the process.
    """
    rows: np.memmap = np.lib.format.open_memmap(path, mode="w+", dtype="<f2", shape=(count, dim), version=(1, 0))
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return rows


def shape_of(path: Path, kind: Kind) -> tuple[int, int]:
    """Returns (count, dim) of a FAISS file of `kind`. Raises IndexRefused."""
    index = _open_faiss(path, kind)
    return index.ntotal, index.d


def _sample(rows: Rows, size: int) -> np.ndarray:
    """Returns `size` rows at even distances, or all if there are fewer, as float32."""
    count = rows.shape[0]
    chosen = np.linspace(0, count - 1, min(size, count)).astype(np.int64)
    parts = []
    for start in range(0, count, _CHUNK):
        inside = chosen[(chosen >= start) & (chosen < start + _CHUNK)]
        parts.append(np.asarray(rows[start : start + _CHUNK])[inside - start].astype(np.float32))
    return np.concatenate(parts)


def _faiss() -> Any:
    return importlib.import_module("faiss")  # faiss-cpu or faiss-gpu


@contextmanager
def _threads_for(numbers: int) -> Iterator[None]:
    faiss = _faiss()
    before = faiss.omp_get_max_threads()  # of the calling thread, as is what is set
    faiss.omp_set_num_threads(before if numbers >= _THREADED_FROM else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _read(path: Path, kind: Kind, count: int, dim: int) -> Any:
    index = _open_faiss(path, kind)
    if (index.ntotal, index.d) != (count, dim):
        raise IndexRefused(path, f"{index.ntotal} vectors of {index.d}, not {count} of {dim}")
    return index


def _open_faiss(path: Path, kind: Kind) -> Any:
    faiss = _faiss()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise IndexRefused(path, f"unreadable: {reason}") from error
    if not kind.recognises(index):
        raise IndexRefused(path, f"a FAISS {type(index).__name__}, not {kind.name}")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexRefused(path, "its metric is not the inner product")
    return index


def _open_npy(path: Path, count: int, dim: int) -> np.ndarray:
    try:
        vectors: np.ndarray = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise IndexRefused(path, f"unreadable: {error}") from error
    if vectors.dtype != np.float16 or vectors.shape != (count, dim):
        raise IndexRefused(path, f"{vectors.dtype} {vectors.shape}, not float16 {(count, dim)}")
    return vectors


def _widen(stored: Stored) -> Any:
    count, dim = stored.shape
    flat = _faiss().IndexFlatIP(dim)
    for start in range(0, count, _CHUNK):
        flat.add(np.ascontiguousarray(stored[start : start + _CHUNK], dtype=np.float32))
    return flat
