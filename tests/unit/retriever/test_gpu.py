"""Vectors spread over GPUs; numpy stands for them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from search_agent.types import Mode
from services.retriever.dense import Dense, write
from services.retriever.errors import IndexRefused, LibraryMissing
from services.retriever.gpu import SCRATCH_BYTES, GpuFlat, Table, torch_devices
from services.retriever.index import Index
from services.retriever.kinds import FAISS, KINDS
from tests.unit.retriever.helpers import FakeEncoder, build_index


class FakeGpu:
    def __init__(self, number: int = 0, free: int = 1 << 40) -> None:
        self.name = f"GPU {number}"
        self._free = free
        self.table = np.zeros((0, 0), np.float16)

    def free_bytes(self) -> int:
        return self._free

    def hold(self, count: int, dim: int) -> None:
        self.table = np.full((count, dim), np.nan, np.float16)

    def fill(self, start: int, rows: np.ndarray) -> None:
        assert rows.dtype == np.float16
        self.table[start : start + len(rows)] = rows

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Table:
        scores: np.ndarray = queries @ self.table.T.astype(np.float32)
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), best


def vectors(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
@pytest.mark.parametrize(("count", "k"), [(1000, 10), (5, 3), (3, 3)])
def test_many_gpus_find_what_one_table_holds(gpus: int, count: int, k: int) -> None:
    rows, asked = vectors(count), vectors(20, seed=1)
    devices = [FakeGpu(number) for number in range(gpus)]
    scores, found = GpuFlat(rows, devices, Path("index")).search(asked, k)
    exact = asked @ rows.astype(np.float16).astype(np.float32).T
    assert found.tolist() == np.argsort(-exact, axis=1, kind="stable")[:, :k].tolist()
    assert np.allclose(scores, np.sort(exact, axis=1)[:, ::-1][:, :k], atol=1e-6)
    held = [len(device.table) for device in devices]
    assert sum(held) == count
    assert max(held) <= -(-count // gpus)


def test_a_single_gpu_is_asked_by_the_thread_that_searches() -> None:
    asked_by = []

    class Noting(FakeGpu):
        def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Table:
            asked_by.append(threading.get_ident())
            return super().search(queries, k, allowed)

    GpuFlat(vectors(10), [Noting()], Path("index")).search(vectors(2), 3)
    assert asked_by == [threading.get_ident()]


@pytest.mark.parametrize("name", ["flat", "flat-fp16", "hnsw"])
def test_a_rung_gives_its_vectors_to_gpus(tmp_path: Path, name: str) -> None:
    rows, asked = vectors(300), vectors(5, seed=1)
    kind = KINDS[name]
    path = tmp_path / kind.files[0]
    write(rows, kind, kind.parameters(300, 16), path)
    exact = asked @ rows.astype(np.float16).astype(np.float32).T
    found = Dense(path, kind, 300, 16, {}, [FakeGpu(), FakeGpu(1)]).search(asked, 4)
    assert [[row for row, _ in ranking] for ranking in found] == np.argsort(-exact, axis=1)[:, :4].tolist()


def test_what_gpus_do_not_search_is_refused(tmp_path: Path) -> None:
    write(vectors(300), KINDS["sq8"], {}, tmp_path / FAISS)
    with pytest.raises(IndexRefused, match="sq8 is not searched on GPUs, only flat, flat-fp16, hnsw, ivf, ivf-pq"):
        Dense(tmp_path / FAISS, KINDS["sq8"], 300, 16, {}, [FakeGpu()])


def test_too_little_memory_is_told_in_sizes() -> None:
    rows = np.broadcast_to(np.float16(0), (21_000_000, 768))
    with pytest.raises(IndexRefused) as caught:
        GpuFlat(rows, [FakeGpu(free=24 << 30)], Path("index"))
    assert str(caught.value) == (
        "index: GPU 0 would have to hold 33.3 GB, and 25.8 GB are free; 2 such GPUs have room for it"
    )
    with pytest.raises(IndexRefused, match=r"and 0\.5 GB are free$"):
        GpuFlat(rows, [FakeGpu(free=SCRATCH_BYTES // 2)], Path("index"))


def test_an_index_on_gpus_ranks_as_on_the_cpu(tmp_path: Path) -> None:
    folder = build_index(tmp_path, 40)
    asked = FakeEncoder().queries(["word3", "word7 word8"])
    on_cpu, on_gpu = Index(folder), Index(folder, gpus=[FakeGpu(), FakeGpu(1)])
    assert Mode.DENSE in on_gpu.manifest.modes
    for one, other in zip(on_cpu.dense(asked, 5), on_gpu.dense(asked, 5), strict=True):
        assert [row for row, _ in one] == [row for row, _ in other]


def test_gpus_that_are_not_there_are_told() -> None:
    with pytest.raises(LibraryMissing, match="RETRIEVER_GPUS"):
        torch_devices(64)
