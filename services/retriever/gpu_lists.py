"""Inverted lists in the memory of one or more GPUs, searched by FAISS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.retriever.columns import Selection
from services.retriever.errors import IndexRefused, LibraryMissing
from services.retriever.gpu import SCRATCH_BYTES, Device, Table, check_room
from services.retriever.kinds import Held

# Numbers of 8-bit codes a vector that FAISS's own kernels support; its float16 tables have room for 96 at most.
_OWN_CODES = frozenset({1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96})
_ID_BYTES = 8
_GROUP = 32  # vectors that lie interleaved; each list is padded to a multiple of it
_WORD = 16  # bytes; cuVS pads codes to a multiple of it


class GpuLists:
    """An ivf or ivf-pq index on `devices`, the first of FAISS's GPUs; a query reads `nprobe` lists.

    Each GPU has all lists, with its share of their vectors. A query finds 2,048 rows at most. FAISS's lists on GPUs
    take no filter, so that filtered searches are made `on_cpu`, in the file that the lists come from. Raises
    LibraryMissing if `faiss` was built for CPUs, and IndexRefused, naming `path`, if there is no room or FAISS refuses
    the index.
    """

    def __init__(self, faiss: Any, on_cpu: Held, nprobe: int, devices: Sequence[Device], path: Path) -> None:
        self._on_cpu, index = on_cpu, on_cpu.index
        if not hasattr(faiss, "StandardGpuResources"):
            raise LibraryMissing(
                f"{path}: its lists are searched on GPUs by faiss-gpu-cuvs, and this faiss was built for CPUs"
            )
        if (there := faiss.get_num_gpus()) < len(devices):
            raise LibraryMissing(f"RETRIEVER_GPUS is {len(devices)}, and FAISS sees {there} GPUs")
        vector = -(-index.code_size // _WORD) * _WORD + _ID_BYTES
        lists = index.nlist * (4 * index.d + _GROUP * vector)
        share = -(-index.ntotal // len(devices))
        for device in devices:
            check_room(device, share * vector, index.ntotal * vector, lists + SCRATCH_BYTES, path)
        index.nprobe = nprobe  # the copy on GPUs keeps it, so that a search needs no parameters
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        options.useFloat16 = True  # ivf-pq's lookup tables; ivf is float16 as it is
        options.use_cuvs = _needs_cuvs(faiss, index)
        self._resources = [faiss.StandardGpuResources() for _ in devices]
        for each in self._resources:
            each.setTempMemory(SCRATCH_BYTES // 2)
        try:
            self._faiss = faiss.index_cpu_to_gpu_multiple_py(self._resources, index, options, range(len(devices)))
        except RuntimeError as error:
            raise IndexRefused(path, f"FAISS cannot put it on GPUs: {str(error).strip().splitlines()[-1]}") from error

    def search(self, vectors: np.ndarray, k: int, selection: Selection | None = None) -> Table:
        if selection is not None:
            return self._on_cpu.search(vectors, k, selection)
        found: Table = self._faiss.search(vectors, k)
        return found


def _needs_cuvs(faiss: Any, index: Any) -> bool:
    """Tells whether FAISS's own kernels do not support the index. cuVS is for long codes; it has no float16 ivf."""
    return isinstance(index, faiss.IndexIVFPQ) and (index.pq.nbits != 8 or index.pq.M not in _OWN_CODES)
