"""What identifies a naive-RAG result: a stale one would be a wrong answer and a wrong reward."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

PREFIX = "rag:"


@dataclass(frozen=True, slots=True)
class RagKey:
    """Everything a naive-RAG result depends on. Versions are content hashes.

    `documents` is how many of the `top_k` passages the generator reads; `options` are the
    (letter, text) pairs of a multiple-choice question.
    """

    corpus: str
    index_version: str
    encoder: str
    top_k: int
    documents: int
    mode: str
    generator: str
    prompt_version: str
    max_tokens: int
    question: str
    options: tuple[tuple[str, str], ...] = ()

    def digest(self) -> str:
        """The Redis key: readable corpus and version in front, so that one index can be found by prefix."""
        parts = json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()
        return f"{PREFIX}{self.corpus}:{self.index_version}:{hashlib.sha256(parts).hexdigest()}"
