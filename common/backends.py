"""The core's ports over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from common import client
from contracts.v1 import generator_pb2 as pb
from contracts.v1 import retriever_pb2 as rpb
from contracts.v1.generator_pb2_grpc import GeneratorStub
from contracts.v1.retriever_pb2_grpc import RetrieverStub
from search_agent.errors import BoundaryError, GeneratorError, RetrieverError, SearcherError
from search_agent.types import Author, Completion, FinishReason, Message, Mode, Passage, Sampling, Span

_LOAD_TIMEOUT_S = 1800.0  # a large model comes from a disk, and vLLM compiles it
_FINISH = {pb.STOP: FinishReason.STOP, pb.LENGTH: FinishReason.LENGTH}


class GrpcRetriever:
    """Retriever port."""

    def __init__(self, target: str, timeout_s: float) -> None:
        self._channel = client.connect(target)
        self._stub = RetrieverStub(self._channel)
        self._timeout_s = timeout_s

    async def search(
        self, queries: Sequence[str], top_k: int, index: str, mode: Mode, rerank: int = 0
    ) -> list[tuple[Passage, ...]]:
        request = rpb.SearchRequest(
            queries=queries, top_k=top_k, index=index, mode=rpb.Mode.Value(mode.name), rerank=rerank
        )
        response = await client.call(self._stub.Search, request, self._timeout_s, RetrieverError)
        return [tuple(Passage(p.id, p.title, p.text, p.score) for p in ranked.passages) for ranked in response.results]

    async def indexes(self) -> Sequence[rpb.IndexInfo]:
        """The indexes served. Raises RetrieverError."""
        request = rpb.ListIndexesRequest()
        response = await client.call(self._stub.ListIndexes, request, self._timeout_s, RetrieverError)
        return response.indexes

    async def close(self) -> None:
        await self._channel.close()


class _GrpcModel:
    """What searcher and generator share: one generator service."""

    def __init__(self, target: str, timeout_s: float, boundary: type[BoundaryError]) -> None:
        self._channel = client.connect(target)
        self._stub = GeneratorStub(self._channel)
        self._timeout_s = timeout_s
        self._boundary = boundary

    async def info(self) -> pb.ModelInfoResponse:
        """The model being served."""
        return await client.call(self._stub.ModelInfo, pb.ModelInfoRequest(), self._timeout_s, self._boundary)

    async def load(self, path: str, adapter: str) -> pb.ModelInfoResponse:
        """Puts another model (empty: the same) and adapter (empty: none) in place; requests under way finish."""
        request = pb.LoadModelRequest(path=path, adapter=adapter)
        return await client.call(self._stub.LoadModel, request, _LOAD_TIMEOUT_S, self._boundary)

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
        request = _request(messages, sampling)
        return _completion(await client.call(self._stub.Generate, request, self._timeout_s, self._boundary))


class GrpcGenerator(_GrpcModel):
    """Generator port."""

    def __init__(self, target: str, timeout_s: float) -> None:
        super().__init__(target, timeout_s, GeneratorError)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        request = _request(messages, sampling)
        async for piece in client.stream(self._stub.GenerateStream, request, self._timeout_s, self._boundary):
            yield _completion(piece)


def _request(messages: Sequence[Message], sampling: Sampling) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        messages=[pb.Message(role=message.role, content=message.content) for message in messages],
        sampling=pb.Sampling(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop=sampling.stop,
            grammar=sampling.grammar,
        ),
    )


def _completion(response: pb.GenerateResponse) -> Completion:
    return Completion(
        text=response.text,
        finish_reason=_FINISH.get(response.finish_reason, FinishReason.STOP),
        prompt_tokens=response.usage.prompt_tokens,
        completion_tokens=response.usage.completion_tokens,
        stop=response.stop,
        model=response.model,
    )
