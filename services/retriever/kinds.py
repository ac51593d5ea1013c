"""The index kinds, from exact and large to approximate and small.

Each kind is an object that knows its parameters and files, and how its FAISS index is made, recognised, searched and
held by GPUs. A new kind is a class here and a line in KINDS. Nothing heavy is imported until a kind is used.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np

    from services.retriever.columns import Selection
    from services.retriever.gpu import Device, Table
    from services.retriever.rows import StoredRows

VECTORS = "vectors.npy"  # float16 (passages, dim), rows of length 1
FAISS = "vectors.faiss"  # a FAISS index whose metric is the inner product
_TRAINED_ON = 65_536  # vectors
_SCARCE = 0.1  # share of the rows; where fewer pass a filter, comparing all of those costs little and misses none
_PER_LIST = 50  # vectors a list to train on; FAISS asks for 39 or more

Parameters = Mapping[str, int]


@dataclass(frozen=True)
class Kind:
    """A way to store vectors and to search them. `about` is one line for people.

    An `exact` kind keeps the 16 bits a number that a build writes, so another kind can be made from it. One with
    `gpus` can be held by GPUs.
    """

    name: str
    about: str
    exact: bool = True
    gpus: bool = True
    files: ClassVar[tuple[str, ...]] = (FAISS,)  # where its vectors may lie; a build writes the first

    def parameters(self, count: int, dim: int) -> dict[str, int]:
        """Returns what it is built and searched with, for `count` vectors of `dim` numbers."""
        return {}

    def check(self, given: Parameters) -> None:
        """Raises ValueError unless `given` are parameters of this kind."""
        names = self.parameters(1, 1).keys()
        if given.keys() != names or not all(type(value) is int and value > 0 for value in given.values()):
            raise ValueError(
                f"kind {self.name!r} has the parameters {[*names]}, positive whole numbers, not {dict(given)}"
            )

    def trained_on(self, given: Parameters) -> int:
        """Returns how many vectors its FAISS index is trained on."""
        return _TRAINED_ON

    def empty(self, dim: int, given: Parameters) -> Any:
        """Returns a FAISS index without vectors."""
        raise NotImplementedError

    def recognises(self, index: Any) -> bool:
        """Tells whether a FAISS index is one of this kind."""
        raise NotImplementedError

    def search_parameters(self, given: Parameters, k: int, selector: Any = None) -> Any:
        """Returns FAISS's parameters for a search of the `k` nearest among those that the `selector` lets pass."""
        return _faiss().SearchParameters(sel=selector) if selector else None

    def in_full(self, index: Any, given: Parameters, selector: Any) -> tuple[Any, Any]:
        """Returns an index, and its parameters for a search that compares every vector that the `selector` lets pass.

        That finds as many as there are. Kinds that compare all vectors anyway search as usual.
        """
        return index, self.search_parameters(given, 1, selector)

    def hold(self, stored: StoredRows, given: Parameters, gpus: Sequence[Device]) -> Searched:
        """Puts the vectors on `gpus` and returns what searches them there.

        Raises IndexRefused or LibraryMissing.
        """
        from services.retriever.gpu import GpuFlat

        return GpuFlat(stored, gpus, stored.path)


class _Flat(Kind):
    files = (VECTORS, FAISS)

    def empty(self, dim: int, given: Parameters) -> Any:
        return _faiss().IndexFlatIP(dim)

    def recognises(self, index: Any) -> bool:
        return isinstance(index, _faiss().IndexFlat)


@dataclass(frozen=True)
class _Scalar(Kind):
    """Every number on its own in `code`, a type of FAISS's scalar quantizer."""

    code: str = ""

    def empty(self, dim: int, given: Parameters) -> Any:
        faiss = _faiss()
        return faiss.IndexScalarQuantizer(dim, _code(self.code), faiss.METRIC_INNER_PRODUCT)

    def recognises(self, index: Any) -> bool:
        return isinstance(index, _faiss().IndexScalarQuantizer) and index.sq.qtype == _code(self.code)


class _Lists(Kind):
    """`nlist` lists around centroids, of which a query reads `nprobe`."""

    def trained_on(self, given: Parameters) -> int:
        return max(_TRAINED_ON, _PER_LIST * given["nlist"])

    def search_parameters(self, given: Parameters, k: int, selector: Any = None) -> Any:
        return _faiss().SearchParametersIVF(nprobe=given["nprobe"], sel=selector)

    def in_full(self, index: Any, given: Parameters, selector: Any) -> tuple[Any, Any]:
        return index, _faiss().SearchParametersIVF(nprobe=given["nlist"], sel=selector)

    def hold(self, stored: StoredRows, given: Parameters, gpus: Sequence[Device]) -> Searched:
        from services.retriever.gpu_lists import GpuLists

        return GpuLists(_faiss(), Held(self, stored.faiss, given), given["nprobe"], gpus, stored.path)

    @staticmethod
    def lists(count: int) -> int:
        # k-means wants some 39 points a centroid; far fewer lists than 4 * sqrt(count) make them long.
        return max(1, min(round(4 * math.sqrt(count)), count // 39))


class _Ivf(_Lists):
    """Float16 in lists."""

    def parameters(self, count: int, dim: int) -> dict[str, int]:
        nlist = self.lists(count)
        # More lists than ivf-pq reads: unread lists are all that ivf misses, and ivf-pq's codes miss more than they do.
        return {"nlist": nlist, "nprobe": min(nlist, 256, max(16, nlist // 8))}

    def empty(self, dim: int, given: Parameters) -> Any:
        faiss = _faiss()
        coarse = faiss.IndexFlatIP(dim)
        # Vectors are stored as they are, not as residuals to the centroids, so that float16 comes back unchanged.
        index = faiss.IndexIVFScalarQuantizer(
            coarse, dim, given["nlist"], _code("QT_fp16"), faiss.METRIC_INNER_PRODUCT, False
        )
        return _own(index, coarse)

    def recognises(self, index: Any) -> bool:
        return isinstance(index, _faiss().IndexIVFScalarQuantizer) and index.sq.qtype == _code("QT_fp16")


class _IvfPq(_Lists):
    """Product-quantizer codes in lists: `m` codes of `nbits` bits a vector."""

    def parameters(self, count: int, dim: int) -> dict[str, int]:
        nlist = self.lists(count)
        return {
            "nlist": nlist,
            "nprobe": min(nlist, 64, max(8, nlist // 16)),
            "m": next(m for m in range(max(1, dim // 4), 0, -1) if dim % m == 0),
            "nbits": max(1, min(8, int(math.log2(count)))),
        }

    def empty(self, dim: int, given: Parameters) -> Any:
        faiss = _faiss()
        coarse = faiss.IndexFlatIP(dim)
        metric = faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexIVFPQ(coarse, dim, given["nlist"], given["m"], given["nbits"], metric)
        index.pq.cp.min_points_per_centroid = 1  # a small corpus is no reason to warn
        # A tenth of FAISS's default work, for codes of a few numbers each; recall on the demo stays as it is.
        index.pq.cp.max_points_per_centroid, index.pq.cp.niter = 64, 10
        return _own(index, coarse)

    def recognises(self, index: Any) -> bool:
        return isinstance(index, _faiss().IndexIVFPQ)


class _Hnsw(Kind):
    """A graph with `m` links a vector, built with `ef_construction` candidates and searched with `ef_search`."""

    def parameters(self, count: int, dim: int) -> dict[str, int]:
        return {"m": 32, "ef_construction": 80, "ef_search": 128}

    def empty(self, dim: int, given: Parameters) -> Any:
        faiss = _faiss()
        index = faiss.IndexHNSWSQ(dim, _code("QT_fp16"), given["m"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = given["ef_construction"]
        return index

    def recognises(self, index: Any) -> bool:
        return isinstance(index, _faiss().IndexHNSWSQ)

    def search_parameters(self, given: Parameters, k: int, selector: Any = None) -> Any:
        return _faiss().SearchParametersHNSW(efSearch=max(k, given["ef_search"]), sel=selector)

    def in_full(self, index: Any, given: Parameters, selector: Any) -> tuple[Any, Any]:
        faiss = _faiss()
        return faiss.downcast_index(index.storage), faiss.SearchParameters(sel=selector)


class Searched(Protocol):
    """Vectors that can be searched."""

    def search(self, vectors: np.ndarray, k: int, selection: Selection | None = None) -> Table:
        """Returns the `k` nearest rows, -1 where there are fewer, among those of the `selection` if there is one."""
        ...


class Held:
    """A FAISS `index` of a kind, searched on CPUs."""

    def __init__(self, kind: Kind, index: Any, given: Parameters) -> None:
        self.index = index
        self._kind, self._given = kind, given

    def search(self, vectors: np.ndarray, k: int, selection: Selection | None = None) -> Table:
        if selection is None:
            found: Table = self.index.search(vectors, k, params=self._kind.search_parameters(self._given, k))
            return found
        selector = _faiss().IDSelectorBitmap(selection.packed)
        scores, rows = self.index.search(vectors, k, params=self._kind.search_parameters(self._given, k, selector))
        # A graph or a few lists may not lead to all that pass.
        short = (rows < 0).any(axis=1) | (selection.count < _SCARCE * len(selection.mask))
        if short.any():
            index, params = self._kind.in_full(self.index, self._given, selector)
            scores[short], rows[short] = index.search(vectors[short], k, params=params)
        return scores, rows


def _faiss() -> Any:
    return importlib.import_module("faiss")  # faiss-cpu or faiss-gpu


def _code(name: str) -> Any:
    return getattr(_faiss().ScalarQuantizer, name)


def _own(index: Any, coarse: Any) -> Any:
    """Gives the centroids' index to `index`, so that both live equally long."""
    index.own_fields = True
    coarse.this.disown()
    index.cp.min_points_per_centroid = 1
    return index


FLAT = _Flat("flat", "exact, 4 bytes a number")
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        FLAT,
        _Scalar("flat-fp16", "exact, 2 bytes a number", code="QT_fp16"),
        _Scalar("sq8", "every vector compared, 1 byte a number", exact=False, gpus=False, code="QT_8bit"),
        _Ivf("ivf", "some lists compared, 2 bytes a number"),
        _IvfPq("ivf-pq", "some lists compared, 1/4 byte a number", exact=False),
        _Hnsw("hnsw", "a graph over 2 bytes a number"),
    )
}
EXACT = tuple(name for name, kind in KINDS.items() if kind.exact)  # they keep the vectors as they were


def named(name: str) -> Kind:
    """Returns the kind called `name`. Raises ValueError."""
    if name not in KINDS:
        raise ValueError(f"kind {name!r} is not supported, only {', '.join(KINDS)}")
    return KINDS[name]
