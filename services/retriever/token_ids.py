"""Token ids of texts, made by Rust threads while Python does other work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

_CHARS_A_TOKEN = 100  # hardly a token has more; what is beyond is cut before tokenizing

TokenIds = Callable[[Sequence[str]], list[list[int]]]


def token_ids(tokenizer: Any, limit: int) -> TokenIds:
    """Returns a function from texts to their token ids, at most `limit` each, that several threads may call.

    It has a copy of a fast tokenizer, whose limit nobody else changes, and skips what transformers computes besides. A
    text that spells a special token, such as "<pad>", is read as these letters.
    """
    if hasattr(tokenizer, "backend_tokenizer"):
        return _Fast(tokenizer, limit)
    return _Slow(tokenizer, limit)


class _Fast:
    def __init__(self, tokenizer: Any, limit: int) -> None:
        backend = tokenizer.backend_tokenizer
        self._tokenizer = type(backend).from_str(backend.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limit, direction=tokenizer.truncation_side)
        self._tokenizer.encode_special_tokens = True
        self._chars = limit * _CHARS_A_TOKEN

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in self._tokenizer.encode_batch_fast([text[: self._chars] for text in texts])]


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
