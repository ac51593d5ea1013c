"""An opened index: its passages and the ways to rank them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from search_agent.types import Mode, Passage
from services.retriever import manifest as manifests
from services.retriever.errors import IndexRefused
from services.retriever.fusion import Ranking
from services.retriever.lexical import Lexical
from services.retriever.manifest import Manifest
from services.retriever.passages import PassageStore

_CHUNK = 65_536  # rows widened to float32 at a time
# Vectors of fewer numbers (200 MB, 20 ms to read) are searched by one thread: waking others takes longer
# than it saves wherever the cores have something else to do.
_THREADED_FROM = 50_000_000


class Index:
    """Opens and checks the index in `folder`. Raises IndexRefused.

    Vectors are widened to float32 in memory (4 x dim bytes a passage); all else is memory-mapped.
    """

    def __init__(self, folder: Path, verify_checksums: bool = True) -> None:
        self.manifest: Manifest = manifests.read(folder, verify_checksums)
        self._store = PassageStore(folder)
        count = self.manifest.count
        if len(self._store) != count:
            raise IndexRefused(
                folder / manifests.MANIFEST, f"count is {count}, but {len(self._store)} passages are stored"
            )
        self._lexical = Lexical(folder, count)
        self._flat = _flat(folder, self.manifest) if Mode.DENSE in self.manifest.modes else None

    def dense(self, vectors: np.ndarray, k: int) -> list[Ranking]:
        """Nearest rows by inner product for each row of `vectors`, float32 (queries, dim)."""
        if self._flat is None:
            raise ValueError(f"index {self.manifest.name} has no vectors")
        with _threads_for(self.manifest.count * self.manifest.dim):
            scores, rows = self._flat.search(vectors, min(k, self.manifest.count))
        return [list(zip(row.tolist(), score.tolist(), strict=True)) for row, score in zip(rows, scores, strict=True)]

    def bm25(self, queries: Sequence[str], k: int) -> list[Ranking]:
        return self._lexical.search(queries, k)

    def passages(self, rows: Sequence[int]) -> Mapping[int, Passage]:
        return self._store.get(rows)


@contextmanager
def _threads_for(numbers: int) -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()  # of the calling thread, as is what is set
    faiss.omp_set_num_threads(before if numbers >= _THREADED_FROM else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _flat(folder: Path, manifest: Manifest) -> Any:  # faiss has no types
    import faiss

    path = folder / manifests.VECTORS
    try:
        vectors = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise IndexRefused(path, f"unreadable: {error}") from error
    if vectors.dtype != np.float16 or vectors.shape != (manifest.count, manifest.dim):
        raise IndexRefused(path, f"{vectors.dtype} {vectors.shape}, not float16 {(manifest.count, manifest.dim)}")
    flat = faiss.IndexFlatIP(manifest.dim)
    for start in range(0, manifest.count, _CHUNK):
        flat.add(np.ascontiguousarray(vectors[start : start + _CHUNK], dtype=np.float32))
    return flat


def open_indexes(folder: Path, verify_checksums: bool = True) -> tuple[dict[str, Index], list[Path]]:
    """Every index in `folder` by name, and the folders that hold none. Raises IndexRefused.

    Folders that a build has not finished with (*.building, *.old) are passed over.
    """
    indexes: dict[str, Index] = {}
    others: list[Path] = []
    if not folder.is_dir():
        raise IndexRefused(folder, "no such folder")
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if path.suffix in (".building", ".old"):
            continue
        if not (path / manifests.MANIFEST).is_file():
            others.append(path)
            continue
        index = Index(path, verify_checksums)
        if index.manifest.name in indexes:
            raise IndexRefused(path, f"a second index called {index.manifest.name!r}")
        indexes[index.manifest.name] = index
    if not indexes:
        raise IndexRefused(folder, "holds no index; build one with: search-agent index build")
    return indexes, others
