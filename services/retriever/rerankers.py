"""Scores passages with a cross-encoder, a model that reads question and passage together."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from services.retriever.errors import RerankerUnavailable
from services.retriever.forward import attention_of_any_shape

_CPU_BATCH, _GPU_BATCH = 32, 128  # pairs a forward pass


class Reranker(Protocol):
    name: str

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Returns float32 (pairs,) for (query, passage) pairs; higher is better."""
        ...


def load_reranker(name: str) -> Reranker:
    """Returns the cross-encoder called `name`, a hub id or a model folder. Raises RerankerUnavailable.

    It runs on a GPU if there is one, with products in float16: bfloat16's 8 significant bits would make scores tie.
    """
    try:
        module = importlib.import_module("sentence_transformers")
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise RerankerUnavailable(
            f"sentence_transformers cannot be imported ({error}); install it with: "
            "pip install 'search-agent[sentence-transformers]'"
        ) from error
    attention_of_any_shape(torch)
    if torch.cuda.is_available():
        return CrossEncoderReranker(name, module, _GPU_BATCH, torch.autocast("cuda", torch.float16))
    return CrossEncoderReranker(name, module)


class CrossEncoderReranker:
    """A model that sentence-transformers loads; it scores `batch` pairs at once.

    It computes in the given precision, or in the model's own if scores overflow in the given one.
    """

    def __init__(
        self,
        name: str,
        module: Any,
        batch: int = _CPU_BATCH,
        precision: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.name = name
        self._batch, self._precision = batch, precision or nullcontext()
        try:
            self._model = module.CrossEncoder(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise RerankerUnavailable(f"reranker {name} cannot be loaded: {reason}") from error
        self._model.tokenizer.split_special_tokens = True  # a passage that spells one does not end the pair
        first = self._predict([("first call", "loads what is loaded lazily")])
        if np.shape(first) != (1,):
            raise RerankerUnavailable(f"reranker {name} gives {np.shape(first)[-1]} scores a pair, not one")
        if not np.isfinite(first).all():  # a model that overflows does so for any text
            self._precision = nullcontext()

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.asarray(self._predict(pairs), dtype=np.float32)

    def _predict(self, pairs: Sequence[tuple[str, str]]) -> Any:
        with self._precision:
            return self._model.predict([*pairs], batch_size=self._batch, convert_to_numpy=True, show_progress_bar=False)
