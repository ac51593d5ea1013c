"""What identifies a naive-RAG result: a stale one would be a wrong answer and a wrong reward."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class RagKey:
    """Everything a naive-RAG result depends on. Versions are content hashes."""

    corpus: str
    index_version: str
    encoder: str
    top_k: int
    mode: str
    rerank: int
    reranker: str
    generator: str
    prompt_version: str
    max_tokens: int
    question: str

    def digest(self) -> str:
        """The Redis key: readable corpus and version in front, so that one index can be found by prefix."""
        parts = json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()
        return f"rag:{self.corpus}:{self.index_version}:{hashlib.sha256(parts).hexdigest()}"
