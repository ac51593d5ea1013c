"""BM25 behind one interface: bm25s, embedded, or Lucene as Pyserini ships it. A manifest names which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from services.retriever import lexical, lucene
from services.retriever.fusion import Ranking

BM25S, LUCENE, NONE = "bm25s", "lucene", ""
BACKENDS = (BM25S, LUCENE, NONE)


class Bm25(Protocol):
    def search(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """For each query up to k rows that share a word with it, best first; ties in corpus order."""
        ...


def build(backend: str, texts: Iterable[str], folder: Path) -> None:
    """Writes the backend's files into a folder of their own inside `folder`. Raises LibraryMissing."""
    (lucene if backend == LUCENE else lexical).build(texts, folder)


def load(backend: str, folder: Path, count: int) -> Bm25 | None:
    """The BM25 index over `count` passages in `folder`; None without one.

    Raises IndexRefused or LibraryMissing.
    """
    if backend == NONE:
        return None
    return lucene.Lucene(folder, count) if backend == LUCENE else lexical.Lexical(folder, count)
