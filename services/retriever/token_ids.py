"""Token ids of texts, made by Rust threads, or by other processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Lock, Thread
from typing import Any
from weakref import finalize

import numpy as np
import structlog

log = structlog.get_logger()

_CHARS_A_TOKEN = 100  # hardly a token has more; what is beyond is cut before tokenizing
_THREADS = 4  # of each process; 3 processes with so many keep up with an H100, and 6 with 2 do not

TokenIds = Callable[[Sequence[str]], Sequence[Sequence[int]]]


def token_ids(tokenizer: Any, limit: int) -> TokenIds:
    """Returns a function from texts to their token ids, at most `limit` each, that several threads may call.

    It has a copy of a fast tokenizer, whose limit nobody else changes, and skips what transformers computes besides. A
    text that spells a special token, such as "<pad>", is read as these letters.
    """
    if hasattr(tokenizer, "backend_tokenizer"):
        return _Fast(tokenizer, limit)
    return _Slow(tokenizer, limit)


def in_processes(make: TokenIds, count: int) -> TokenIds:
    """Returns a function that has `count` processes make the token ids, and this one if a process dies.

    This leaves the interpreter to the threads that launch kernels: with an H100 they encode half as much again
    (bench/pages/encoding.md). The processes start at the first call, within a second or two, and end with this one. A
    tokenizer that is not a fast one stays here, as all do if `count` is below 2.
    """
    return _InProcesses(make, count) if isinstance(make, _Fast) and count > 1 else make


def flat(ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns the token ids of all texts, one after another, int32."""
    return np.concatenate([np.asarray(each, dtype=np.int32) for each in ids])


class _Fast:
    def __init__(self, tokenizer: Any, limit: int) -> None:
        backend = tokenizer.backend_tokenizer
        self._made_from = type(backend), backend.to_str(), tokenizer.truncation_side, limit
        self._set_up()

    def _set_up(self) -> None:
        kind, described, side, limit = self._made_from
        self._tokenizer = kind.from_str(described)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limit, direction=side)
        self._tokenizer.encode_special_tokens = True
        self._chars = limit * _CHARS_A_TOKEN

    def __getstate__(self) -> object:
        return self._made_from  # a pickled tokenizer forgets how it reads special tokens

    def __setstate__(self, state: Any) -> None:
        self._made_from = state
        self._set_up()

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in self._tokenizer.encode_batch_fast([text[: self._chars] for text in texts])]


class _InProcesses:
    def __init__(self, here: _Fast, count: int) -> None:
        self._here, self._said = here, False
        spawned = multiprocessing.get_context("spawn")  # a fork would copy the state of CUDA
        self._pool = ProcessPoolExecutor(count, spawned, _begin, (here,))
        finalize(self, self._pool.shutdown)  # also when the interpreter ends, before it takes modules apart

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        try:
            ids, lengths = self._pool.submit(_made, texts).result()
        except BrokenProcessPool as error:
            if not self._said:
                self._said = True
                log.warning("texts are tokenized by this process from now on, more slowly", reason=str(error))
            return self._here(texts)
        split: list[Any] = np.split(ids, np.cumsum(lengths)[:-1])
        return split


_make: TokenIds


def _begin(make: TokenIds) -> None:
    """Prepares a process that makes token ids."""
    global _make
    _make = make
    os.environ["RAYON_NUM_THREADS"] = str(_THREADS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that this one works for
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(0)


def _made(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns all token ids in one array, which costs little to send, and the number of each text's."""
    ids = _make(texts)
    return flat(ids), np.array([len(each) for each in ids])


class _Slow:
    def __init__(self, tokenizer: Any, limit: int) -> None:
        self._tokenizer, self._limit = tokenizer, limit
        self._one_at_a_time = Lock()

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        cut = [text[: self._limit * _CHARS_A_TOKEN] for text in texts]
        with self._one_at_a_time:
            found: list[list[int]] = self._tokenizer(
                cut, truncation=True, max_length=self._limit, split_special_tokens=True
            )["input_ids"]
        return found
