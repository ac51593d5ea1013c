"""The core's ports over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from common import client
from common.codecs import generator as models
from common.codecs import retriever as retrieval
from contracts.v1.generator_pb2 import LoadModelRequest, ModelInfoRequest
from contracts.v1.generator_pb2_grpc import GeneratorStub
from contracts.v1.retriever_pb2 import ListIndexesRequest
from contracts.v1.retriever_pb2_grpc import RetrieverStub
from search_agent.errors import BoundaryError, GeneratorError, RetrieverError, SearcherError
from search_agent.types import (
    Author,
    Completion,
    IndexInfo,
    Message,
    ModelInfo,
    Passage,
    Retrieval,
    Sampling,
    Span,
)

_QUERIES_A_CALL = 128
_LOAD_TIMEOUT_S = 1800.0  # a large model comes from a disk, and vLLM compiles it


class GrpcRetriever:
    """Retriever port."""

    def __init__(self, target: str, timeout_s: float) -> None:
        self._channel = client.connect(target)
        self._stub = RetrieverStub(self._channel)
        self._timeout_s = timeout_s

    async def search(self, queries: Sequence[str], how: Retrieval) -> list[tuple[Passage, ...]]:
        """A large batch is asked in several calls, each with a deadline of its own."""
        found: list[tuple[Passage, ...]] = []
        for start in range(0, len(queries), _QUERIES_A_CALL):
            request = retrieval.search_request(queries[start : start + _QUERIES_A_CALL], how)
            response = await client.call(self._stub.Search, request, self._timeout_s, RetrieverError)
            found += retrieval.passages_of(response)
        return found

    async def indexes(self) -> Sequence[IndexInfo]:
        request = ListIndexesRequest()
        return retrieval.indexes_of(await client.call(self._stub.ListIndexes, request, self._timeout_s, RetrieverError))

    async def close(self) -> None:
        await self._channel.close()


class _GrpcModel:
    """What searcher and generator share: one generator service."""

    def __init__(self, target: str, timeout_s: float, boundary: type[BoundaryError]) -> None:
        self._channel = client.connect(target)
        self._stub = GeneratorStub(self._channel)
        self._timeout_s = timeout_s
        self._boundary = boundary

    async def info(self) -> ModelInfo:
        """Returns the model that is served."""
        request = ModelInfoRequest()
        return models.model_of(await client.call(self._stub.ModelInfo, request, self._timeout_s, self._boundary))

    async def load(self, path: str, adapter: str) -> ModelInfo:
        """Puts another model (empty: the same) and adapter (empty: none) in place; requests under way finish."""
        request = LoadModelRequest(path=path, adapter=adapter)
        return models.model_of(await client.call(self._stub.LoadModel, request, _LOAD_TIMEOUT_S, self._boundary))

    async def close(self) -> None:
        await self._channel.close()


class GrpcPolicy(_GrpcModel):
    """Policy port: the first span is the user's message, all later ones are the assistant's, continued."""

    def __init__(self, target: str, timeout_s: float) -> None:
        super().__init__(target, timeout_s, SearcherError)

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        first, *rest = spans
        assert first.author is Author.ENVIRONMENT
        messages = [Message("user", first.text)]
        if rest:
            messages.append(Message("assistant", "".join(span.text for span in rest)))
        request = models.generate_request(messages, sampling)
        return models.completion_of(await client.call(self._stub.Generate, request, self._timeout_s, self._boundary))


class GrpcGenerator(_GrpcModel):
    """Generator port."""

    def __init__(self, target: str, timeout_s: float) -> None:
        super().__init__(target, timeout_s, GeneratorError)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        request = models.generate_request(messages, sampling)
        async for piece in client.stream(self._stub.GenerateStream, request, self._timeout_s, self._boundary):
            yield models.completion_of(piece)
