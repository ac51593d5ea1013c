"""BM25 by Lucene, as Pyserini ships it: Anserini's analyzer, k1 0.9 and b 0.4. Runs a JVM in this process."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from services.retriever.errors import IndexRefused, LibraryMissing
from services.retriever.fusion import Ranking

FOLDER = "lucene"
FILE = re.compile(rf"{FOLDER}/[A-Za-z0-9_]+(\.[A-Za-z0-9]+)?")
_BATCH = 1000  # documents handed to the JVM at a time


def _java(name: str) -> Any:
    """A class of Anserini's jar. The first call starts the JVM, for the whole life of the process."""
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


def build(texts: Iterable[str], folder: Path) -> None:
    """Writes the files of `folder`/lucene. The bytes differ from build to build: segments have random ids."""
    path = folder / FOLDER
    indexer = _java("io.anserini.index.SimpleIndexer")(str(path), False, 1)
    numbered = (json.dumps({"id": f"{row:010d}", "contents": text}) for row, text in enumerate(texts))
    while batch := list(islice(numbered, _BATCH)):
        indexer.addRawDocuments(batch)
    indexer.close(True)
    (path / "write.lock").unlink(missing_ok=True)


class Lucene:
    """A Lucene index over `count` passages."""

    def __init__(self, folder: Path, count: int) -> None:
        start = _java("io.anserini.search.SimpleSearcher")
        try:
            self._searcher = start(str(folder / FOLDER))
        except Exception as error:  # a Java exception, of whatever kind
            reason = str(error).strip().splitlines()[0]
            raise IndexRefused(folder / FOLDER, f"unreadable: {reason}") from error
        if (indexed := self._searcher.get_total_num_docs()) != count:
            raise IndexRefused(folder / FOLDER, f"indexes {indexed} passages, not {count}")

    def search(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """For each query up to k rows that share a word with it, best first; ties in corpus order."""
        return [[(int(hit.docid), float(hit.score)) for hit in self._searcher.search(query, k)] for query in queries]
