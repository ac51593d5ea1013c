"""Opened indexes: their passages, and the ways to rank them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from search_agent.filters import EVERYTHING, Filter
from search_agent.types import IndexInfo, Mode, Passage
from services.retriever import bm25, kinds
from services.retriever import manifest as manifests
from services.retriever.bm25 import Bm25
from services.retriever.columns import Columns
from services.retriever.dense import Dense
from services.retriever.errors import IndexRefused
from services.retriever.folders import candidates
from services.retriever.fusion import Ranking
from services.retriever.gpu import Device
from services.retriever.manifest import Manifest
from services.retriever.passages import PassageStore
from services.retriever.sources import Source
from services.retriever.sources.config import SOURCE


class Index:
    """Opens and checks the index in `folder`. Raises IndexRefused.

    Files are memory-mapped, but for the vectors of a kind "flat" that was built here: they are widened to float32
    in memory (4 x dim bytes a passage). With `gpus`, they hold the vectors. An index without passages finds nothing.
    """

    def __init__(self, folder: Path, verify_checksums: bool = True, gpus: Sequence[Device] = ()) -> None:
        self.folder = folder
        self.manifest: Manifest = manifests.read(folder, verify_checksums)
        self.name = self.manifest.name
        self._store: PassageStore | None = None
        self._bm25: Bm25 | None = None
        self._dense: Dense | None = None
        self._columns = Columns(folder, self.manifest.count)
        if self.manifest.count:
            self._open(folder, gpus)

    def _open(self, folder: Path, gpus: Sequence[Device]) -> None:
        self._store = PassageStore(folder)
        count = self.manifest.count
        if len(self._store) != count:
            raise IndexRefused(
                folder / manifests.MANIFEST, f"count is {count}, but {len(self._store)} passages are stored"
            )
        made = self.manifest
        self._bm25 = bm25.BACKENDS[made.bm25].open(folder, count, made.bm25_parameters)
        if Mode.DENSE in self.manifest.modes:
            self._dense = Dense(folder / made.vectors, kinds.KINDS[made.kind], count, made.dim, made.parameters, gpus)

    @property
    def info(self) -> IndexInfo:
        """Returns what the folder tells of it; the service knows the rest."""
        made = self.manifest
        return IndexInfo(
            name=made.name, version=made.version, passages=made.count, dim=made.dim, kind=made.kind,
            encoder=made.encoder, modes=made.modes, source=made.source, licence=made.licence, keys=self._columns.keys,
        )  # fmt: skip

    def dense(self, vectors: np.ndarray, k: int, filter: Filter = EVERYTHING) -> list[Ranking]:
        """Returns up to k nearest rows by inner product for each row of `vectors`, float32 (queries, dim)."""
        return self._dense.search(vectors, k, self._columns.select(filter)) if self._dense else [[] for _ in vectors]

    def bm25(self, queries: Sequence[str], k: int, filter: Filter = EVERYTHING) -> list[Ranking]:
        """Returns for each query up to k rows that share a word with it."""
        return self._bm25.search(queries, k, self._columns.select(filter)) if self._bm25 else [[] for _ in queries]

    def passages(self, rows: Sequence[int]) -> Mapping[int, Passage]:
        """Returns the passages of `rows` by row."""
        return self._store.get(rows) if self._store else {}


def open_indexes(
    folder: Path, verify_checksums: bool = True, gpus: Sequence[Device] = (), needed: bool = True
) -> tuple[dict[str, Index], dict[str, Source], list[Path]]:
    """Returns every index in `folder` by name, those that are servers too, and the folders that hold none.

    Folders of unfinished builds and what is kept beside an index are passed over. Raises IndexRefused.
    """
    indexes: dict[str, Index] = {}
    sources: dict[str, Source] = {}
    others: list[Path] = []
    if not folder.is_dir():
        raise IndexRefused(folder, "no such folder")
    for path in candidates(folder):
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
    if not indexes and not sources and needed:
        raise IndexRefused(folder, "holds no index; build one with: search-agent index build")
    return indexes, sources, others
