"""The identity of a naive-RAG result. A stale result would be a wrong answer and a wrong reward."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields

from search_agent import prompts
from search_agent.agents import Agent
from search_agent.types import IndexInfo, Question, Trajectory

PREFIX = "rag:"


@dataclass(frozen=True, slots=True)
class RagKey:
    """Everything that a naive-RAG result depends on. Versions are content hashes.

    `documents` is the number of the `top_k` passages that the generator reads; `options` are the (letter, text) pairs
    of a multiple-choice question.
    """

    corpus: str
    index_version: str
    encoder: str
    top_k: int
    documents: int
    mode: str
    rerank: int
    reranker: str
    filter: str
    generator: str
    prompt_version: str
    max_tokens: int
    question: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        agent: Agent,
        question: Question,
        index: IndexInfo,
        generator: str,
        max_tokens: int,
        max_documents: int | None = None,
    ) -> RagKey:
        """Returns the key of naive RAG's answer to a question.

        `agent` is naive RAG with its parameters, `generator` the model that answers in at most `max_tokens` tokens.
        The reranker counts only where the parameters ask for it.
        """
        params = agent.params
        return cls(
            corpus=index.name,
            index_version=index.version,
            encoder=index.encoder,
            top_k=params.top_k,
            documents=min(params.top_k, max_documents or params.top_k),
            mode=index.mode(params.mode),
            rerank=params.rerank,
            reranker=index.reranker if params.rerank else "",
            filter=json.dumps(params.filter.to_json()),
            generator=generator,
            prompt_version="-".join(map(prompts.version, (agent.prompt, "direct", "options"))),
            max_tokens=max_tokens,
            question=question.text,
            options=tuple(question.options.items()),
        )

    def made(self, result: Trajectory) -> bool:
        """Tells whether the key's index and generator are those that made the result."""
        return f"{self.corpus}@{self.index_version}" in result.indexes and self.generator in result.models

    def digest(self) -> str:
        """Returns the Redis key. It begins with corpus and version, so that a prefix finds the results of an index."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}  # not asdict, which copies deeply
        told = json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()
        return f"{PREFIX}{self.corpus}:{self.index_version}:{hashlib.sha256(told).hexdigest()}"
