"""Scores passages anew with a model that reads question and passage together: a cross-encoder."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from services.retriever.errors import RerankerUnavailable


class Reranker(Protocol):
    name: str

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """float32 (pairs,) for (query, passage) pairs; the higher, the better."""
        ...


def load_reranker(name: str) -> Reranker:
    """The cross-encoder called `name`, a hub id or a model folder. Raises RerankerUnavailable."""
    try:
        module = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise RerankerUnavailable(
            f"sentence_transformers cannot be imported ({error}); install it with: "
            "pip install 'search-agent[sentence-transformers]'"
        ) from error
    return CrossEncoderReranker(name, module)


class CrossEncoderReranker:
    """A model that sentence-transformers loads, on the GPU where there is one."""

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        try:
            self._model = module.CrossEncoder(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise RerankerUnavailable(f"reranker {name} cannot be loaded: {reason}") from error
        shape = np.shape(self._predict([("first call", "loads what is loaded lazily")]))
        if shape != (1,):
            raise RerankerUnavailable(f"reranker {name} gives {shape[-1]} scores a pair, not one")

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.asarray(self._predict(pairs), dtype=np.float32)

    def _predict(self, pairs: Sequence[tuple[str, str]]) -> Any:
        return self._model.predict([*pairs], convert_to_numpy=True, show_progress_bar=False)
