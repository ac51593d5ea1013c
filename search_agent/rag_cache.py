"""What identifies a naive-RAG result: a stale one would be a wrong answer and a wrong reward."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypedDict, Unpack

from search_agent import prompts
from search_agent.agents.naive_rag import NaiveRagParams

PREFIX = "rag:"


class Versions(TypedDict):
    """What answers: index (`corpus` is its name), encoder, generator, and its longest answer in tokens."""

    corpus: str
    index_version: str
    encoder: str
    generator: str
    max_tokens: int


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
    rerank: int
    reranker: str
    generator: str
    prompt_version: str
    max_tokens: int
    question: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        params: NaiveRagParams,
        prompt: str,
        question: str,
        options: Mapping[str, str],
        max_documents: int | None,
        reranker: str,
        **versions: Unpack[Versions],
    ) -> RagKey:
        """The key of what naive RAG answers with `params` and the prompt of that name.

        `reranker` is the model that the retriever has for it; it counts only where `params` asks for it.
        """
        return cls(
            top_k=params.top_k,
            documents=min(params.top_k, max_documents or params.top_k),
            mode=params.mode,
            rerank=params.rerank,
            reranker=reranker if params.rerank else "",
            prompt_version="-".join(map(prompts.version, (prompt, "direct", "options"))),
            question=question,
            options=tuple(options.items()),
            **versions,
        )

    def digest(self) -> str:
        """The Redis key: readable corpus and version in front, so that one index can be found by prefix."""
        parts = json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()
        return f"{PREFIX}{self.corpus}:{self.index_version}:{hashlib.sha256(parts).hexdigest()}"
