"""BM25 by bm25s."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.retriever.errors import IndexRefused
from services.retriever.fusion import Ranking
from services.retriever.tokens import ENGLISH, ENGLISH_AND_NGRAMS, SPLITTERS

if TYPE_CHECKING:
    from bm25s.tokenization import Tokenizer

    from services.retriever.columns import Selection

_ABSENT: Any = object()
_FOLDER = "bm25"
_ARRAYS = ("data", "indices", "indptr")
_FILES = frozenset(
    {
        *(f"{_FOLDER}/{array}.csc.index.npy" for array in _ARRAYS),
        f"{_FOLDER}/params.index.json",
        f"{_FOLDER}/vocab.index.json",
    }
)


class Bm25s:
    """The backend. Its manifests name the `tokenizer`; older ones name none and have English words."""

    name, about = "bm25s", "embedded; English stems, and bigrams of scripts without spaces"
    parameters: Mapping[str, str] = {"tokenizer": ENGLISH_AND_NGRAMS}

    def check(self, given: Mapping[str, str]) -> None:
        if not given.keys() <= {"tokenizer"} or given.get("tokenizer", ENGLISH) not in SPLITTERS:
            raise ValueError(f"bm25s has a tokenizer, {' or '.join(SPLITTERS)}, not {dict(given)}")

    def files(self, present: Iterable[str]) -> frozenset[str]:
        return _FILES

    def build(self, texts: Iterable[str], folder: Path) -> None:
        """Writes the files. The same texts give the same bytes.

        bm25s holds the token numbers of the whole corpus in memory, 8 bytes a token.
        """
        shutil.rmtree(folder / _FOLDER, ignore_errors=True)  # of a killed build
        bm25s = _import("bm25s")
        # bm25s.tokenize() numbers tokens in the order of a set, which changes from run to run; this does not.
        tokenizer = _tokenizer(SPLITTERS[self.parameters["tokenizer"]].passage)
        ids = list(tokenizer.streaming_tokenize(texts, update_vocab=True))
        index = bm25s.BM25()
        index.index((ids, tokenizer.get_vocab_dict()), show_progress=False)
        index.save(folder / _FOLDER, show_progress=False)

    def open(self, folder: Path, count: int, given: Mapping[str, str]) -> _Opened:
        return _Opened(folder / _FOLDER, count, given.get("tokenizer", ENGLISH))


class _Opened:
    """A BM25 index over `count` passages. Not for two threads at once: the stemmer keeps state."""

    def __init__(self, folder: Path, count: int, tokenizer: str) -> None:
        bm25s = _import("bm25s")
        try:
            self._index = bm25s.BM25.load(folder, mmap=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexRefused(folder, f"unreadable: {error}") from error
        scores = self._index.scores
        data, indices, indptr = (scores[array] for array in _ARRAYS)
        if scores["num_docs"] != count:
            raise IndexRefused(folder, f"indexes {scores['num_docs']} passages, not {count}")
        if len(data) != len(indices) or indptr[-1] != len(data):
            raise IndexRefused(folder, "its arrays do not fit each other")
        self._tokenizer = _tokenizer(SPLITTERS[tokenizer].query)

    def search(self, queries: Sequence[str], k: int, selection: Selection | None = None) -> list[Ranking]:
        return [self._search(query, k, selection) for query in queries]

    def _search(self, query: str, k: int, selection: Selection | None) -> Ranking:
        import numpy as np

        tokens = self._index.get_tokens_ids(self._words(query))
        if not tokens:
            return []
        scores = self._index.get_scores_from_ids(tokens)
        if selection is not None:
            scores = np.where(selection.mask, scores, 0)
        # All rows that tie with the k-th are sorted too: which of them are kept must not depend on k, or a
        # query's answer would depend on the queries that it is merged with.
        kth = np.partition(scores, -k)[-k] if k < len(scores) else 0
        rows = np.flatnonzero((scores >= kth) & (scores > 0))
        rows = rows[np.lexsort((rows, -scores[rows]))][:k]
        return [(int(row), float(scores[row])) for row in rows]

    def _words(self, query: str) -> list[str]:
        tokenizer = self._tokenizer
        return [tokenizer.stemmer(word) for word in tokenizer.splitter(query) if word not in tokenizer.stopwords]


def _tokenizer(split: Callable[[str], list[str]]) -> Tokenizer:
    import Stemmer

    made: Tokenizer = _import("bm25s.tokenization").Tokenizer(
        splitter=split, stopwords="en", stemmer=Stemmer.Stemmer("english")
    )
    return made


def _import(module: str) -> Any:
    """Imports a module of bm25s without JAX, which would compile its top-k and take most of a GPU's memory for it."""
    jax = sys.modules.get("jax", _ABSENT)
    sys.modules["jax"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(module)
    finally:
        if jax is _ABSENT:
            del sys.modules["jax"]
        else:
            sys.modules["jax"] = jax
