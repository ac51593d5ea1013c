"""Inverted lists on GPUs. A fake of faiss-gpu records the calls, and searches on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from services.retriever.dense import Dense, write
from services.retriever.errors import IndexRefused, LibraryMissing
from services.retriever.gpu import SCRATCH_BYTES
from services.retriever.gpu_lists import GpuLists
from services.retriever.kinds import FAISS, KINDS, Held
from tests.unit.retriever.test_gpu import FakeGpu, vectors

PATH = Path("index")
IVF, IVF_PQ = "ivf", "ivf-pq"


class GpuFaiss:
    """Has the given number of GPUs; an index copied to them stays on the CPU."""

    IndexIVFPQ = faiss.IndexIVFPQ

    class StandardGpuResources:
        temporary = 0

        def setTempMemory(self, size: int) -> None:
            self.temporary = size

    class GpuMultipleClonerOptions:
        shard = useFloat16 = use_cuvs = False

    def __init__(self, gpus: int = 2, trouble: str = "") -> None:
        self._gpus, self._trouble = gpus, trouble
        self.options: Any = None
        self.asked: list[int] = []
        self.temporary: list[int] = []

    def get_num_gpus(self) -> int:
        return self._gpus

    def index_cpu_to_gpu_multiple_py(self, resources: Any, index: Any, options: Any, gpus: range) -> Any:
        if self._trouble:
            raise RuntimeError(self._trouble)
        self.options, self.asked, self.temporary = options, [*gpus], [each.temporary for each in resources]
        return faiss.clone_index(index)


def opened(tmp_path: Path, kind: str, count: int = 2000, dim: int = 16, **changes: int) -> tuple[Any, dict[str, int]]:
    parameters = KINDS[kind].parameters(count, dim) | changes
    write(vectors(count, dim), KINDS[kind], parameters, tmp_path / FAISS)
    return Held(KINDS[kind], faiss.read_index(str(tmp_path / FAISS)), parameters), parameters


@pytest.mark.parametrize("kind", [IVF, IVF_PQ])
@pytest.mark.parametrize("gpus", [1, 2])
def test_lists_on_gpus_find_what_they_find_on_the_cpu(tmp_path: Path, kind: str, gpus: int) -> None:
    index, parameters = opened(tmp_path, kind)
    there, asked = GpuFaiss(gpus), vectors(20, seed=1)
    found = GpuLists(there, index, parameters["nprobe"], [FakeGpu(n) for n in range(gpus)], PATH).search(asked, 5)
    on_cpu = Dense(tmp_path / FAISS, KINDS[kind], 2000, 16, parameters).search(asked, 5)
    assert found[1].tolist() == [[row for row, _ in ranking] for ranking in on_cpu]
    assert (there.asked, there.temporary) == ([*range(gpus)], [SCRATCH_BYTES // 2] * gpus)
    assert (there.options.shard, there.options.useFloat16) == (True, True)


@pytest.mark.parametrize(
    ("kind", "dim", "changes", "cuvs"),
    [
        (IVF, 768, {}, False),
        (IVF_PQ, 384, {"m": 96}, False),
        (IVF_PQ, 768, {"m": 192}, True),
        (IVF_PQ, 36, {"m": 9}, True),
        (IVF_PQ, 16, {"m": 4, "nbits": 6}, True),
    ],
)
def test_cuvs_searches_only_what_faiss_itself_cannot(
    tmp_path: Path, kind: str, dim: int, changes: dict[str, int], cuvs: bool
) -> None:
    index, _ = opened(tmp_path, kind, 300, dim, **changes)
    there = GpuFaiss()
    GpuLists(there, index, 1, [FakeGpu()], PATH)
    assert there.options.use_cuvs is cuvs


def test_too_little_memory_is_told_before_anything_is_copied(tmp_path: Path) -> None:
    index, parameters = opened(tmp_path, IVF)
    there = GpuFaiss()
    needed = 2000 * (2 * 16 + 8)
    own = parameters["nlist"] * (4 * 16 + 32 * (2 * 16 + 8)) + SCRATCH_BYTES
    with pytest.raises(IndexRefused, match=r"index: GPU 0 would have to hold 1\.1 GB, and 1\.1 GB are free; 2 such"):
        GpuLists(there, index, 8, [FakeGpu(free=own + needed - 1)], PATH)
    assert there.options is None
    GpuLists(there, index, 8, [FakeGpu(free=own + needed)], PATH)
    GpuLists(there, index, 8, [FakeGpu(n, free=own + needed // 2) for n in range(2)], PATH)


def test_what_faiss_will_not_take_is_a_refusal(tmp_path: Path) -> None:
    index, _ = opened(tmp_path, IVF)
    with pytest.raises(IndexRefused, match=r"index: FAISS cannot put it on GPUs: no such codes$"):
        GpuLists(GpuFaiss(trouble="Error in x.cu:1:\nno such codes"), index, 8, [FakeGpu()], PATH)


def test_gpus_that_faiss_does_not_have(tmp_path: Path) -> None:
    index, parameters = opened(tmp_path, IVF)
    with pytest.raises(LibraryMissing, match="RETRIEVER_GPUS is 2, and FAISS sees 1 GPUs"):
        GpuLists(GpuFaiss(1), index, 8, [FakeGpu(), FakeGpu(1)], PATH)
    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this faiss is one for GPUs")
    with pytest.raises(LibraryMissing, match="searched on GPUs by faiss-gpu-cuvs, and this faiss was built for CPUs"):
        Dense(tmp_path / FAISS, KINDS[IVF], 2000, 16, parameters, [FakeGpu()])


def test_ivf_reads_more_than_ivf_pq_keeps(tmp_path: Path) -> None:
    centres = vectors(40, 32)
    drawn = np.repeat(centres, 50, axis=0) + 0.3 * vectors(2000, 32, seed=2)
    rows = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
    asked = rows[::40].astype(np.float32)
    exact = np.argsort(-(asked @ rows.astype(np.float32).T), axis=1)[:, :8]
    recall = {}
    for kind in (IVF, IVF_PQ):
        parameters = KINDS[kind].parameters(2000, 32)
        write(rows, KINDS[kind], parameters, tmp_path / FAISS)
        found = Dense(tmp_path / FAISS, KINDS[kind], 2000, 32, parameters).search(asked, 8)
        recall[kind] = np.mean([len({*a} & {row for row, _ in b}) / 8 for a, b in zip(exact, found, strict=True)])
    assert recall[IVF] > max(0.95, recall[IVF_PQ])
