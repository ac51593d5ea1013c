"""Nearest vectors by inner product, with FAISS: writes, opens and searches every rung of the ladder."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from services.retriever import kinds
from services.retriever.errors import BuildRefused, IndexRefused
from services.retriever.fusion import Ranking
from services.retriever.gpu import Device, GpuFlat
from services.retriever.gpu_lists import GpuLists
from services.retriever.rows import Rows

VECTORS = "vectors.npy"  # float16 (passages, dim), rows of length 1
FAISS = "vectors.faiss"  # a FAISS index with the inner product as its metric
_CHUNK = 65_536  # rows widened to float32 at a time
# Vectors of fewer numbers (200 MB, 20 ms to read) are searched by one thread: waking others takes longer
# than it saves wherever the cores have something else to do.
_THREADED_FROM = 50_000_000
_TRAINED_ON = 50  # vectors a list of ivf and ivf-pq; FAISS asks for 39 or more


class Dense:
    """An opened rung. Raises IndexRefused where `path` is no index of `kind` with `count` rows of `dim`.

    A FAISS file is memory-mapped, so that what is searched is paged in and can be paged out again; the rows
    of a .npy file are widened to float32 in memory. On GPUs exact kinds are float16 and compared in full;
    ivf and ivf-pq keep their lists.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        count: int,
        dim: int,
        parameters: Mapping[str, int],
        gpus: Sequence[Device] = (),
    ) -> None:
        self._count, self._dim, self._parameters = count, dim, parameters
        self._faiss: Any
        if gpus:
            if kind not in kinds.ON_GPUS:
                raise IndexRefused(path, f"{kind} is not searched on GPUs, only {', '.join(sorted(kinds.ON_GPUS))}")
            self._parameters = {}
            if kind in kinds.LISTS:
                faiss: Any = importlib.import_module("faiss")
                self._faiss = GpuLists(faiss, _read(path, kind, count, dim), parameters["nprobe"], gpus, path)
            else:
                self._faiss = GpuFlat(Stored(path, kind, count, dim), gpus, path)
        else:
            self._faiss = _read(path, kind, count, dim) if path.name == FAISS else _widen(path, count, dim)

    def search(self, vectors: np.ndarray, k: int) -> list[Ranking]:
        """For each row of `vectors`, float32 (queries, dim), up to k nearest rows, best first.

        ivf and ivf-pq find fewer where the lists they read hold fewer. hnsw looks at max(ef_search, k) candidates.
        """
        k = min(k, self._count)
        with _threads_for(self._count * self._dim):
            scores, rows = self._faiss.search(vectors, k, params=self._search_parameters(k))
        return [
            [(row, score) for row, score in zip(found, scored, strict=True) if row >= 0]
            for found, scored in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _search_parameters(self, k: int) -> Any:
        faiss: Any = importlib.import_module("faiss")
        if "nprobe" in self._parameters:
            return faiss.SearchParametersIVF(nprobe=self._parameters["nprobe"])
        if "ef_search" in self._parameters:
            return faiss.SearchParametersHNSW(efSearch=max(k, self._parameters["ef_search"]))
        return None


def write(rows: Rows, kind: str, parameters: Mapping[str, int], path: Path) -> None:
    """Builds a rung of `kind` over `rows` into the FAISS file `path`.

    The same rows give the same bytes on one machine, hnsw aside: its links depend on the order in which
    threads come by, and are the same each time only with OMP_NUM_THREADS=1.
    """
    faiss: Any = importlib.import_module("faiss")
    count, dim = rows.shape
    index = _empty(faiss, kind, dim, parameters)
    if not index.is_trained:
        index.train(_sample(rows, max(_CHUNK, _TRAINED_ON * parameters.get("nlist", 0))))
    for start in range(0, count, _CHUNK):
        index.add(np.ascontiguousarray(rows[start : start + _CHUNK], dtype=np.float32))
    faiss.write_index(index, str(path))


def _empty(faiss: Any, kind: str, dim: int, parameters: Mapping[str, int]) -> Any:
    metric, quantizer = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer
    if kind == kinds.FLAT:
        return faiss.IndexFlatIP(dim)
    if kind == kinds.FLAT_FP16:
        return faiss.IndexScalarQuantizer(dim, quantizer.QT_fp16, metric)
    if kind == kinds.SQ8:
        return faiss.IndexScalarQuantizer(dim, quantizer.QT_8bit, metric)
    if kind == kinds.HNSW:
        index = faiss.IndexHNSWSQ(dim, quantizer.QT_fp16, parameters["m"], metric)
        index.hnsw.efConstruction = parameters["ef_construction"]
        return index
    coarse = faiss.IndexFlatIP(dim)
    if kind == kinds.IVF:
        # Not the residuals to the lists' centres, so that the float16 of the build come back as they were.
        index = faiss.IndexIVFScalarQuantizer(coarse, dim, parameters["nlist"], quantizer.QT_fp16, metric, False)
    else:
        index = faiss.IndexIVFPQ(coarse, dim, parameters["nlist"], parameters["m"], parameters["nbits"], metric)
        index.pq.cp.min_points_per_centroid = 1  # a small corpus is no reason to warn
        # A tenth of FAISS's default work, for codes of a few numbers each; recall on the demo stays as it is.
        index.pq.cp.max_points_per_centroid, index.pq.cp.niter = 64, 10
    index.own_fields = True
    coarse.this.disown()
    index.cp.min_points_per_centroid = 1
    return index


def _sample(rows: Rows, size: int) -> np.ndarray:
    """`size` rows, or all if there are fewer, at even distances, as float32."""
    count = rows.shape[0]
    chosen = np.linspace(0, count - 1, min(size, count)).astype(np.int64)
    parts = []
    for start in range(0, count, _CHUNK):
        inside = chosen[(chosen >= start) & (chosen < start + _CHUNK)]
        parts.append(np.asarray(rows[start : start + _CHUNK])[inside - start].astype(np.float32))
    return np.concatenate(parts)


class Stored:
    """The vectors of an index folder's file, to build another rung from. BuildRefused where they are lossy."""

    def __init__(self, path: Path, kind: str, count: int, dim: int) -> None:
        if kind not in kinds.EXACT:
            raise BuildRefused(
                f"{path}: {kind} keeps only what resembles the vectors; start from {', '.join(sorted(kinds.EXACT))}"
            )
        self.shape = (count, dim)
        self._faiss: Any = _read(path, kind, count, dim) if path.name == FAISS else None
        self._rows = None if self._faiss else _open_npy(path, count, dim)

    def __getitem__(self, rows: slice) -> np.ndarray:
        if self._rows is not None:
            return self._rows[rows]
        start, stop, _ = rows.indices(self.shape[0])
        found: np.ndarray = self._faiss.reconstruct_n(start, stop - start)
        return found


@contextmanager
def _threads_for(numbers: int) -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()  # of the calling thread, as is what is set
    faiss.omp_set_num_threads(before if numbers >= _THREADED_FROM else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def flat_shape(path: Path) -> tuple[int, int]:
    """(count, dim) of a FAISS flat index file. Raises IndexRefused."""
    index = _open_faiss(path, kinds.FLAT)
    return index.ntotal, index.d


def _read(path: Path, kind: str, count: int, dim: int) -> Any:
    index = _open_faiss(path, kind)
    if (index.ntotal, index.d) != (count, dim):
        raise IndexRefused(path, f"{index.ntotal} vectors of {index.d}, not {count} of {dim}")
    return index


def _open_faiss(path: Path, kind: str) -> Any:
    faiss: Any = importlib.import_module("faiss")
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise IndexRefused(path, f"unreadable: {reason}") from error
    classes = {
        kinds.FLAT: faiss.IndexFlat,
        kinds.FLAT_FP16: faiss.IndexScalarQuantizer,
        kinds.SQ8: faiss.IndexScalarQuantizer,
        kinds.IVF: faiss.IndexIVFScalarQuantizer,
        kinds.IVF_PQ: faiss.IndexIVFPQ,
        kinds.HNSW: faiss.IndexHNSWSQ,
    }
    fp16 = faiss.ScalarQuantizer.QT_fp16
    bits = {kinds.FLAT_FP16: fp16, kinds.IVF: fp16, kinds.SQ8: faiss.ScalarQuantizer.QT_8bit}
    if not isinstance(index, classes[kind]) or (kind in bits and index.sq.qtype != bits[kind]):
        raise IndexRefused(path, f"a FAISS {type(index).__name__}, not {kind}")
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


def _widen(path: Path, count: int, dim: int) -> Any:
    import faiss

    vectors = _open_npy(path, count, dim)
    flat = faiss.IndexFlatIP(dim)
    for start in range(0, count, _CHUNK):
        flat.add(np.ascontiguousarray(vectors[start : start + _CHUNK], dtype=np.float32))
    return flat
