"""BM25 by Lucene, as Pyserini ships it: Anserini's analyzer, k1 0.9 and b 0.4. Runs a JVM in this process."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.retriever.errors import IndexRefused, LibraryMissing
from services.retriever.fusion import Ranking

if TYPE_CHECKING:
    from services.retriever.columns import Selection

_FOLDER = "lucene"
_FILE = re.compile(rf"{_FOLDER}/[A-Za-z0-9_]+(\.[A-Za-z0-9]+)?")
_BATCH = 1000  # documents handed to the JVM at a time


class Lucene:
    """The backend. Its analyzer stems English words and takes ideographs one by one."""

    name, about = "lucene", "Pyserini's, with Java 17; English stems, and ideographs one by one"
    parameters: Mapping[str, str] = {}

    def check(self, given: Mapping[str, str]) -> None:
        if given:
            raise ValueError(f"lucene has no parameters, not {dict(given)}")

    def files(self, present: Iterable[str]) -> frozenset[str]:
        found = {name for name in present if _FILE.fullmatch(name)}
        if not any(name.startswith(f"{_FOLDER}/segments_") for name in found):
            found.add(f"{_FOLDER}/segments_1")  # there is no index without one
        return frozenset(found)

    def build(self, texts: Iterable[str], folder: Path) -> None:
        """Writes the files. The bytes differ from build to build: segments have random ids."""
        path = folder / _FOLDER
        shutil.rmtree(path, ignore_errors=True)  # of a killed build
        indexer = _java("io.anserini.index.SimpleIndexer")(str(path), False, 1)
        numbered = (json.dumps({"id": f"{row:010d}", "contents": text}) for row, text in enumerate(texts))
        while batch := list(islice(numbered, _BATCH)):
            indexer.addRawDocuments(batch)
        indexer.close(True)
        (path / "write.lock").unlink(missing_ok=True)

    def open(self, folder: Path, count: int, given: Mapping[str, str]) -> _Opened:
        return _Opened(folder / _FOLDER, count)


class _Opened:
    """A Lucene index over `count` passages."""

    def __init__(self, folder: Path, count: int) -> None:
        start = _java("io.anserini.search.SimpleSearcher")
        try:
            self._searcher = start(str(folder))
        except Exception as error:  # a Java exception, of whatever kind
            reason = str(error).strip().splitlines()[0]
            raise IndexRefused(folder, f"unreadable: {reason}") from error
        if (indexed := self._searcher.get_total_num_docs()) != count:
            raise IndexRefused(folder, f"indexes {indexed} passages, not {count}")

    def search(self, queries: Sequence[str], k: int, selection: Selection | None = None) -> list[Ranking]:
        return [self._search(query, k, selection) for query in queries]

    def _search(self, query: str, k: int, selection: Selection | None) -> Ranking:
        """Looks deeper until k rows of the selection are found or there are no others."""
        depth = k
        while True:
            ranked = [(int(hit.docid), float(hit.score)) for hit in self._searcher.search(query, depth)]
            found = [hit for hit in ranked if selection is None or selection.mask[hit[0]]]
            if selection is None or len(found) >= k or len(ranked) < depth:
                return found[:k]
            depth *= 4


def _java(name: str) -> Any:
    """Returns a class of Anserini's jar. The first call starts the JVM, for the whole life of the process."""
    try:
        config = importlib.import_module("jnius_config")
        if not config.vm_running:
            config.add_options("-Xrs")  # signals are for Python, which stops cleanly on SIGTERM
        return importlib.import_module("pyserini.pyclass").autoclass(name)
    except Exception as error:  # pyjnius raises plain Exception, or KeyError, where it finds no Java
        raise LibraryMissing(
            f"Lucene cannot be started ({error!r}); it needs Java 17 and: pip install pyjnius && "
            "pip install --no-deps pyserini==0.22.1, or the image built with --build-arg LOCK=retriever-lucene"
        ) from error
