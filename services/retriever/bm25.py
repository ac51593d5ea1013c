"""The BM25 backends. To add one, write a module with its class and add a line to BACKENDS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from services.retriever.fusion import Ranking
from services.retriever.lexical import Bm25s
from services.retriever.lucene import Lucene

if TYPE_CHECKING:
    from services.retriever.columns import Selection


class Bm25(Protocol):
    """An opened BM25 index."""

    def search(self, queries: Sequence[str], k: int, selection: Selection | None = None) -> list[Ranking]:
        """Returns for each query up to k rows that share a word with it, best first; ties in corpus order.

        With a `selection`, only its rows are found.
        """
        ...


class Backend(Protocol):
    """A library that makes and searches BM25 indexes. `about` is one line for people."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, str]:
        """The parameters of a new index, which its manifest keeps."""
        ...

    def check(self, given: Mapping[str, str]) -> None:
        """Raises ValueError unless `given` are parameters of this backend."""
        ...

    def files(self, present: Iterable[str]) -> frozenset[str]:
        """Returns the files of an index, as paths in its folder; if their names vary, those that are `present`."""
        ...

    def build(self, texts: Iterable[str], folder: Path) -> None:
        """Writes the files of a new index into `folder`. Raises LibraryMissing."""
        ...

    def open(self, folder: Path, count: int, given: Mapping[str, str]) -> Bm25 | None:
        """Returns the index over `count` passages in `folder`. Raises IndexRefused or LibraryMissing."""
        ...


class _Without:
    """No BM25 at all."""

    name, about = "", "no BM25"
    parameters: Mapping[str, str] = {}

    def check(self, given: Mapping[str, str]) -> None:
        if given:
            raise ValueError(f"without BM25 there are no parameters of it, not {dict(given)}")

    def files(self, present: Iterable[str]) -> frozenset[str]:
        return frozenset()

    def build(self, texts: Iterable[str], folder: Path) -> None:
        pass

    def open(self, folder: Path, count: int, given: Mapping[str, str]) -> None:
        return None


BM25S, LUCENE, NONE = Bm25s(), Lucene(), _Without()
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (BM25S, LUCENE, NONE)}


# Backends as people choose them; manifests have no name for none.
CHOICES: Mapping[str, Backend] = {backend.name or "none": backend for backend in BACKENDS.values()}


def chosen(name: str) -> Backend:
    """Returns the backend that a request names, bm25s for an empty name. Raises ValueError."""
    if name and name not in CHOICES:
        raise ValueError(f"BM25 is by {', '.join(CHOICES)}, not by {name!r}")
    return CHOICES[name or BM25S.name]


def named(name: str) -> Backend:
    """Returns the backend called `name` in a manifest. Raises ValueError."""
    if name not in BACKENDS:
        raise ValueError(f"BM25 by {name!r} is not supported, only {', '.join(map(repr, BACKENDS))}")
    return BACKENDS[name]
