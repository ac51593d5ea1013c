"""Opened indexes: their passages, and the ways to rank them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from search_agent.types import Mode, Passage
from services.retriever import bm25, kinds
from services.retriever import manifest as manifests
from services.retriever.dense import Dense
from services.retriever.errors import IndexRefused
from services.retriever.fusion import Ranking
from services.retriever.gpu import Device
from services.retriever.manifest import Manifest
from services.retriever.passages import PassageStore
from services.retriever.sources import Source
from services.retriever.sources.config import SOURCE


class Index:
    """Opens and checks the index in `folder`. Raises IndexRefused.

    Files are memory-mapped, but for the vectors of a kind "flat" that was built here: they are widened to float32
    in memory (4 x dim bytes a passage). With `gpus`, they hold the vectors.
    """

    def __init__(self, folder: Path, verify_checksums: bool = True, gpus: Sequence[Device] = ()) -> None:
        self.manifest: Manifest = manifests.read(folder, verify_checksums)
        self.name = self.manifest.name
        self._store = PassageStore(folder)
        count = self.manifest.count
        if len(self._store) != count:
            raise IndexRefused(
                folder / manifests.MANIFEST, f"count is {count}, but {len(self._store)} passages are stored"
            )
        made = self.manifest
        self._bm25 = bm25.BACKENDS[made.bm25].open(folder, count, made.bm25_parameters)
        self._dense: Dense | None = None
        if Mode.DENSE in self.manifest.modes:
            self._dense = Dense(folder / made.vectors, kinds.KINDS[made.kind], count, made.dim, made.parameters, gpus)

    def dense(self, vectors: np.ndarray, k: int) -> list[Ranking]:
        """Returns up to k nearest rows by inner product for each row of `vectors`, float32 (queries, dim)."""
        if self._dense is None:
            raise ValueError(f"index {self.manifest.name} has no vectors")
        return self._dense.search(vectors, k)

    def bm25(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """Returns for each query up to k rows that share a word with it."""
        if self._bm25 is None:
            raise ValueError(f"index {self.manifest.name} has no BM25")
        return self._bm25.search(queries, k)

    def passages(self, rows: Sequence[int]) -> Mapping[int, Passage]:
        """Returns the passages of `rows` by row."""
        return self._store.get(rows)


def open_indexes(
    folder: Path, verify_checksums: bool = True, gpus: Sequence[Device] = ()
) -> tuple[dict[str, Index], dict[str, Source], list[Path]]:
    """Returns every index in `folder` by name, those that are servers too, and the folders that hold none.

    Folders of unfinished builds (*.building, *.old) are passed over. Raises IndexRefused.
    """
    indexes: dict[str, Index] = {}
    sources: dict[str, Source] = {}
    others: list[Path] = []
    if not folder.is_dir():
        raise IndexRefused(folder, "no such folder")
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if path.suffix in (".building", ".old"):
            continue
        is_source = (path / SOURCE).is_file()
        if not is_source and not (path / manifests.MANIFEST).is_file():
            others.append(path)
            continue
        opened = Source(path) if is_source else Index(path, verify_checksums, gpus)
        if opened.name in indexes or opened.name in sources:
            raise IndexRefused(path, f"a second index called {opened.name!r}")
        if isinstance(opened, Source):
            sources[opened.name] = opened
        else:
            indexes[opened.name] = opened
    if not indexes and not sources:
        raise IndexRefused(folder, "holds no index; build one with: search-agent index build")
    return indexes, sources, others
