"""Clients of the gRPC services, which are the core's ports."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from common.addresses import model_at
from common.codecs import generator as models
from common.codecs import retriever as retrieval
from common.codecs import trainer as training
from common.indexes import Change, Edit, NewIndex
from common.link import Link
from common.pushed import Pushed
from common.training import GateProgress, Promotion, Run, TrainingStep
from contracts.v1 import retriever_pb2 as pb_retriever
from contracts.v1 import trainer_pb2 as pb
from contracts.v1.generator_pb2 import LoadModelRequest, ModelInfoRequest
from contracts.v1.generator_pb2_grpc import GeneratorStub
from contracts.v1.retriever_pb2_grpc import RetrieverStub
from contracts.v1.trainer_pb2_grpc import TrainerStub
from search_agent.errors import BoundaryError, GeneratorError, RetrieverError, SearcherError, TrainerError
from search_agent.types import (
    Author,
    Completion,
    IndexInfo,
    Message,
    ModelInfo,
    Rankings,
    Retrieval,
    Sampling,
    Span,
)

_QUERIES_A_CALL = 128
_TEXTS_A_CALL = 16  # to embed: passages take long on a CPU
_PASSAGES_A_CALL = 8192  # which have 8 KiB each until the answer is too large a message
_EDITS_A_MESSAGE = 16  # texts may be long, and a message has a limit
_CHANGE_TIMEOUT_S = 600.0  # to send many passages, or to open a large index
_LONGEST_GATE_S = 7 * 24 * 3600.0  # of a watch too; the trainer bounds a gate itself
_LOAD_TIMEOUT_S = 1800.0  # a large model comes from a disk, and vLLM compiles it


class GrpcRetriever:
    """Retriever port."""

    def __init__(self, target: str, timeout_s: float, patience_s: float = 0.0, watches: bool = False) -> None:
        """Asks again for up to `patience_s` what the service is too busy for, where that changes nothing.

        A client that `watches` is sent the indexes and need not ask for them (`Pushed`).
        """
        self._link = Link(target, timeout_s, RetrieverError, patience_s=patience_s)
        self._stub = RetrieverStub(self._link.channel)
        self._served = Pushed(self._list_indexes, self._watch_indexes) if watches else None

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        """Splits a large batch into several calls, each with its own deadline; the version is the last call's."""
        found = Rankings()
        at_once = max(1, min(_QUERIES_A_CALL, _PASSAGES_A_CALL // max(how.top_k, 1)))
        for start in range(0, len(queries), at_once):
            request = retrieval.search_request(queries[start : start + at_once], how)
            response = await self._link.call(self._stub.Search, request)
            some = retrieval.rankings_of(response)
            found = Rankings([*found, *some], some.served)
        return found

    async def embed(self, texts: Sequence[str], index: str, as_passages: bool) -> list[bytes]:
        """Splits many texts into several calls, each with its own deadline."""
        vectors: list[bytes] = []
        for start in range(0, len(texts), _TEXTS_A_CALL):
            request = retrieval.embed_request(texts[start : start + _TEXTS_A_CALL], index, as_passages)
            response = await self._link.call(self._stub.Embed, request)
            vectors += retrieval.vectors_of(response)
        return vectors

    async def indexes(self) -> Sequence[IndexInfo]:
        return await (self._served.get() if self._served else self._list_indexes())

    async def _list_indexes(self) -> Sequence[IndexInfo]:
        return retrieval.indexes_of(await self._link.call(self._stub.ListIndexes, pb_retriever.ListIndexesRequest()))

    async def _watch_indexes(self) -> AsyncGenerator[Sequence[IndexInfo], None]:
        async with aclosing(self._link.watch(self._stub.WatchIndexes, pb_retriever.ListIndexesRequest())) as responses:
            async for response in responses:
                yield retrieval.indexes_of(response)

    async def create_index(self, new: NewIndex) -> IndexInfo:
        return retrieval.index_of(await self._link.once(self._stub.CreateIndex, retrieval.create_request(new)))

    async def delete_index(self, index: str) -> None:
        await self._link.once(self._stub.DeleteIndex, pb_retriever.IndexRequest(index=index))

    async def change_passages(self, index: str, edits: AsyncIterable[Edit]) -> Change:
        """Sends the edits in several messages. Ends the call without a change if `edits` raises."""
        requests = _edits_requests(index, edits)
        return retrieval.change_of(await self._link.upload(self._stub.ChangePassages, requests, _CHANGE_TIMEOUT_S))

    async def changes(self, index: str) -> Sequence[Change]:
        return retrieval.changes_of(
            await self._link.call(self._stub.ListChanges, pb_retriever.IndexRequest(index=index))
        )

    async def roll_back(self, index: str, version: str) -> IndexInfo:
        request = pb_retriever.RollBackRequest(index=index, version=version)
        return retrieval.index_of(await self._link.once(self._stub.RollBack, request, _CHANGE_TIMEOUT_S))

    async def close(self) -> None:
        if self._served:
            await self._served.close()
        await self._link.close()


async def _edits_requests(index: str, edits: AsyncIterable[Edit]) -> AsyncIterator[pb_retriever.EditsRequest]:
    """Yields messages of few edits each. The last may have none; it does not come if `edits` raises."""
    some: list[Edit] = []
    async for edit in edits:
        some.append(edit)
        if len(some) == _EDITS_A_MESSAGE:
            yield retrieval.edits_request(index, some, last=False)
            some = []
    yield retrieval.edits_request(index, some, last=True)


class _GrpcModel:
    """A client of one model of a generator service, for searcher and generator alike.

    `target` is HOST:PORT/NAME; without a name it is the service's first model. A client that `watches` is sent the
    served model and need not ask for it (`Pushed`).
    """

    def __init__(
        self, target: str, timeout_s: float, boundary: type[BoundaryError], patience_s: float, watches: bool
    ) -> None:
        address, self._model = model_at(target)
        self._link = Link(address, timeout_s, boundary, self._model, patience_s)
        self._stub = GeneratorStub(self._link.channel)
        self._served = Pushed(self._ask_info, self._watch_info) if watches else None

    async def info(self) -> ModelInfo:
        """Returns the model that is served, without patience."""
        return await (self._served.get() if self._served else self._ask_info())

    async def _ask_info(self) -> ModelInfo:
        return models.model_of(await self._link.once(self._stub.ModelInfo, ModelInfoRequest(model=self._model)))

    async def _watch_info(self) -> AsyncGenerator[ModelInfo, None]:
        request = ModelInfoRequest(model=self._model)
        async with aclosing(self._link.watch(self._stub.WatchModel, request)) as responses:
            async for response in responses:
                yield models.model_of(response)

    async def load(self, path: str, adapter: str) -> ModelInfo:
        """Loads another adapter (empty: none) and base model (empty: the same); requests in progress finish first."""
        request = LoadModelRequest(path=path, adapter=adapter, model=self._model)
        return models.model_of(await self._link.once(self._stub.LoadModel, request, _LOAD_TIMEOUT_S))

    async def close(self) -> None:
        if self._served:
            await self._served.close()
        await self._link.close()


def dialogue(spans: Sequence[Span]) -> list[Message]:
    """Returns a dialogue as messages: its first span is the user's, all later ones are the assistant's, continued."""
    first, *rest = spans
    assert first.author is Author.ENVIRONMENT
    messages = [Message("user", first.text)]
    if rest:
        messages.append(Message("assistant", "".join(span.text for span in rest)))
    return messages


class GrpcPolicy(_GrpcModel):
    """Policy port."""

    def __init__(self, target: str, timeout_s: float, patience_s: float = 0.0, watches: bool = False) -> None:
        super().__init__(target, timeout_s, SearcherError, patience_s, watches)

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        request = models.generate_request(dialogue(spans), sampling, self._model)
        return models.completion_of(await self._link.call(self._stub.Generate, request))


class GrpcGenerator(_GrpcModel):
    """Generator port."""

    def __init__(self, target: str, timeout_s: float, patience_s: float = 0.0, watches: bool = False) -> None:
        super().__init__(target, timeout_s, GeneratorError, patience_s, watches)

    async def write(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        request = models.generate_request(messages, sampling, self._model)
        return models.completion_of(await self._link.call(self._stub.Generate, request))

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        request = models.generate_request(messages, sampling, self._model)
        async for piece in self._link.stream(self._stub.GenerateStream, request):
            yield models.completion_of(piece)


class GrpcTrainer:
    """v1.Trainer at "host:port". Every method raises TrainerError."""

    def __init__(self, target: str, timeout_s: float) -> None:
        self._link = Link(target, timeout_s, TrainerError)
        self._stub = TrainerStub(self._link.channel)

    async def start(self, config: str, overrides: Mapping[str, Any]) -> Run:
        values = {field: json.dumps(value) for field, value in overrides.items()}
        return training.run_of(await self._call("StartRun", pb.StartRunRequest(config=config, overrides=values)))

    async def runs(self) -> list[Run]:
        return [training.run_of(run) for run in (await self._call("ListRuns", pb.ListRunsRequest())).runs]

    async def run(self, id: str) -> Run:
        return training.run_of(await self._call("GetRun", pb.RunRequest(id=id)))

    async def cancel(self, id: str) -> Run:
        return training.run_of(await self._call("CancelRun", pb.RunRequest(id=id)))

    async def resume(self, id: str) -> Run:
        return training.run_of(await self._call("ResumeRun", pb.RunRequest(id=id)))

    async def watch(self, id: str) -> AsyncGenerator[Run | TrainingStep, None]:
        async with aclosing(self._stream("WatchRun", pb.RunRequest(id=id))) as events:
            async for event in events:
                yield training.run_event_of(event)

    async def promote(self, id: str, checkpoint: int, searcher: str) -> AsyncGenerator[GateProgress | Promotion, None]:
        request = pb.PromoteRequest(run=id, checkpoint=checkpoint, searcher=searcher)
        async with aclosing(self._stream("Promote", request)) as events:
            async for event in events:
                yield training.promote_event_of(event)

    async def rollback(self, searcher: str) -> Promotion:
        return training.promotion_of(await self._call("Rollback", pb.RollbackRequest(searcher=searcher)))

    async def close(self) -> None:
        await self._link.close()

    async def _call(self, name: str, request: Any) -> Any:
        return await self._link.once(getattr(self._stub, name), request)

    def _stream(self, name: str, request: Any) -> AsyncGenerator[Any, None]:
        return self._link.stream(getattr(self._stub, name), request, _LONGEST_GATE_S)
