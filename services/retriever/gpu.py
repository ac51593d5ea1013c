"""Exact search over vectors in the memory of GPUs: float16, shared out between them, by FAISS's brute force."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from services.retriever.errors import IndexRefused, LibraryMissing
from services.retriever.rows import Rows

_CHUNK = 262_144  # rows copied to a GPU at a time
# What a search needs beside the vectors: the scores of a tile, twice. FAISS takes it once, at the start.
SCRATCH_BYTES = 1 << 30

Table = tuple[np.ndarray, np.ndarray]  # scores float32 and rows int64, both (queries, k), best first


class Device(Protocol):
    """A place that holds vectors and compares queries with all of them."""

    name: str

    def free_bytes(self) -> int: ...

    def hold(self, count: int, dim: int) -> None:
        """Takes the memory for a table of float16 (count, dim)."""
        ...

    def fill(self, start: int, rows: np.ndarray) -> None: ...

    def search(self, queries: np.ndarray, k: int) -> Table:
        """Nearest rows by inner product. `queries` are float32 (queries, dim)."""
        ...


class _Shard(NamedTuple):
    device: Device
    start: int
    held: int


class GpuFlat:
    """All rows of `rows` on `devices`, in equal shares. Raises IndexRefused, naming `path`, where there is no room.

    Searched as a FAISS index is.
    """

    def __init__(self, rows: Rows, devices: Sequence[Device], path: Path) -> None:
        count, dim = rows.shape
        share = -(-count // len(devices))
        self._shards = [
            _Shard(device, start, min(share, count - start))
            for device, start in zip(devices, range(0, count, share), strict=False)
        ]
        for device, _, held in self._shards:
            needed, free = 2 * held * dim + SCRATCH_BYTES, device.free_bytes()
            if needed > free:
                raise IndexRefused(path, _no_room(device.name, needed, free, count, dim))
            device.hold(held, dim)
        for device, first, held in self._shards:
            for start in range(0, held, _CHUNK):
                stop = min(start + _CHUNK, held)
                device.fill(start, np.asarray(rows[first + start : first + stop], dtype=np.float16))
        self._pool = ThreadPoolExecutor(len(self._shards), thread_name_prefix="gpu")

    def search(self, vectors: np.ndarray, k: int, params: None = None) -> Table:
        def ask(shard: _Shard) -> Table:
            scores, rows = shard.device.search(vectors, min(k, shard.held))
            return scores, rows + shard.start

        found = [*self._pool.map(ask, self._shards)]
        scores = np.concatenate([each for each, _ in found], axis=1)
        rows = np.concatenate([each for _, each in found], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)


def _no_room(name: str, needed: int, free: int, count: int, dim: int) -> str:
    text = f"{name} would have to hold {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    if free <= SCRATCH_BYTES:
        return text
    return f"{text}; {-(-2 * count * dim // (free - SCRATCH_BYTES))} such GPUs have room for it"


def faiss_devices(gpus: int) -> list[Device]:
    """The first `gpus` GPUs, with FAISS. Raises LibraryMissing."""
    try:
        torch: Any = importlib.import_module("torch")  # first: its CUDA libraries are those that FAISS then uses
        faiss: Any = importlib.import_module("faiss")
        importlib.import_module("faiss.contrib.torch_utils")  # lets FAISS take torch's tensors
    except ImportError as error:
        raise LibraryMissing(f"RETRIEVER_GPUS needs torch and faiss-gpu: {error}") from error
    there = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if there < gpus:
        raise LibraryMissing(f"RETRIEVER_GPUS is {gpus}, and this FAISS sees {there} GPUs")
    return [_FaissDevice(torch, faiss, number) for number in range(gpus)]


class _FaissDevice:
    def __init__(self, torch: Any, faiss: Any, number: int) -> None:
        self.name = f"GPU {number}"
        self._torch, self._faiss, self._number = torch, faiss, number
        self._device = torch.device("cuda", number)
        self._table: Any = None
        self._resources: Any = None

    def free_bytes(self) -> int:
        free: int = self._torch.cuda.mem_get_info(self._device)[0]
        return free

    def hold(self, count: int, dim: int) -> None:
        self._table = self._torch.empty((count, dim), dtype=self._torch.float16, device=self._device)
        self._resources = self._faiss.StandardGpuResources()
        self._resources.setTempMemory(SCRATCH_BYTES)

    def fill(self, start: int, rows: np.ndarray) -> None:
        self._table[start : start + len(rows)].copy_(self._torch.from_numpy(np.array(rows)))

    def search(self, queries: np.ndarray, k: int) -> Table:
        torch = self._torch
        with torch.cuda.device(self._device):
            asked = torch.from_numpy(queries).to(self._device, torch.float16)
            scores, rows = self._faiss.knn_gpu(
                self._resources, asked, self._table, k, metric=self._faiss.METRIC_INNER_PRODUCT, device=self._number
            )
            return scores.cpu().numpy(), rows.cpu().numpy()
