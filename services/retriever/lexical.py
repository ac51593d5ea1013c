"""BM25 over stemmed English words, by bm25s."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.retriever.errors import IndexRefused
from services.retriever.fusion import Ranking

if TYPE_CHECKING:
    from bm25s.tokenization import Tokenizer

FOLDER = "bm25"
_ARRAYS = ("data", "indices", "indptr")
FILES = (
    *(f"{FOLDER}/{array}.csc.index.npy" for array in _ARRAYS),
    f"{FOLDER}/params.index.json",
    f"{FOLDER}/vocab.index.json",
)


def _tokenizer() -> Tokenizer:
    import Stemmer
    from bm25s.tokenization import Tokenizer

    return Tokenizer(stopwords="en", stemmer=Stemmer.Stemmer("english"))


def build(texts: Iterable[str], folder: Path) -> None:
    """Writes the files of `folder`/bm25. The same texts give the same bytes.

    bm25s holds the token numbers of the whole corpus in memory, 8 bytes a token.
    """
    import bm25s

    # bm25s.tokenize() numbers tokens in the order of a set, which changes from run to run; this does not.
    tokenizer = _tokenizer()
    ids = list(tokenizer.streaming_tokenize(texts, update_vocab=True))
    index = bm25s.BM25()
    index.index((ids, tokenizer.get_vocab_dict()), show_progress=False)
    index.save(folder / FOLDER, show_progress=False)


class Lexical:
    """A BM25 index over `count` passages. Not for two threads at once: the stemmer keeps state."""

    def __init__(self, folder: Path, count: int) -> None:
        import bm25s

        try:
            self._index = bm25s.BM25.load(folder / FOLDER, mmap=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexRefused(folder / FOLDER, f"unreadable: {error}") from error
        scores = self._index.scores
        data, indices, indptr = (scores[array] for array in _ARRAYS)
        if scores["num_docs"] != count:
            raise IndexRefused(folder / FOLDER, f"indexes {scores['num_docs']} passages, not {count}")
        if len(data) != len(indices) or indptr[-1] != len(data):
            raise IndexRefused(folder / FOLDER, "its arrays do not fit each other")
        self._stem = _tokenizer()

    def search(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """For each query up to k rows that share a word with it, best first; ties in corpus order."""
        return [self._search(query, k) for query in queries]

    def _search(self, query: str, k: int) -> Ranking:
        tokens = self._index.get_tokens_ids(self._words(query))
        if not tokens:
            return []
        scores = self._index.get_scores_from_ids(tokens)
        # All rows that tie with the k-th are sorted too: which of them are kept must not depend on k, or a
        # query's answer would depend on the queries that it is merged with.
        kth = np.partition(scores, -k)[-k] if k < len(scores) else 0
        rows = np.flatnonzero((scores >= kth) & (scores > 0))
        rows = rows[np.lexsort((rows, -scores[rows]))][:k]
        return [(int(row), float(scores[row])) for row in rows]

    def _words(self, query: str) -> list[str]:
        tokenizer = self._stem
        words = tokenizer.splitter(query.lower())
        return [tokenizer.stemmer(word) for word in words if word not in tokenizer.stopwords]
