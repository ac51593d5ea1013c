"""Clients of the gRPC services, which are the core's ports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from copy import copy
from typing import Any, Self

from common.addresses import model_at, several
from common.codecs import generator as models
from common.codecs import retriever as retrieval
from common.codecs import trainer as training
from common.indexes import Change, Edit, NewIndex
from common.link import Link
from common.patience import Patience
from common.problems import Problem
from common.pushed import Pushed
from common.replicas import Choice
from common.training import GateProgress, Promotion, Run, TrainingStep
from contracts.v1 import retriever_pb2 as pb_retriever
from contracts.v1 import trainer_pb2 as pb
from contracts.v1.generator_pb2 import LoadModelRequest, ModelInfoRequest
from contracts.v1.generator_pb2_grpc import GeneratorStub
from contracts.v1.retriever_pb2_grpc import RetrieverStub
from contracts.v1.trainer_pb2_grpc import TrainerStub
from search_agent.errors import BoundaryError, Failure, GeneratorError, RetrieverError, SearcherError, TrainerError
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


class _Replica:
    """A model as one generator service holds it; the empty name means the service's first model."""

    def __init__(self, address: str, model: str, link: Link, watches: bool) -> None:
        self.address, self.link, self.stub = address, link, GeneratorStub(link.channel)
        self._model = model
        self._served = Pushed(self._ask_info, self._watch_info) if watches else None

    @property
    def is_away(self) -> bool:
        return self.link.is_open

    async def info(self) -> ModelInfo:
        return await (self._served.get() if self._served else self._ask_info())

    async def _ask_info(self) -> ModelInfo:
        return models.model_of(await self.link.once(self.stub.ModelInfo, ModelInfoRequest(model=self._model)))

    async def _watch_info(self) -> AsyncGenerator[ModelInfo, None]:
        request = ModelInfoRequest(model=self._model)
        async with aclosing(self.link.watch(self.stub.WatchModel, request)) as responses:
            async for response in responses:
                yield models.model_of(response)

    async def load(self, path: str, adapter: str) -> ModelInfo:
        request = LoadModelRequest(path=path, adapter=adapter, model=self._model)
        return models.model_of(await self.link.once(self.stub.LoadModel, request, _LOAD_TIMEOUT_S))

    async def close(self) -> None:
        if self._served:
            await self._served.close()
        await self.link.close()


class _GrpcModel:
    """A client of one model of a generator service, for searcher and generator alike.

    `target` is HOST:PORT/NAME; without a name it is the service's first model. The calls for HOST:PORT,HOST:PORT/NAME
    are distributed over these services, which hold the same model. A client that `watches` is sent the served model and
    need not ask for it (`Pushed`).
    """

    def __init__(
        self, target: str, timeout_s: float, boundary: type[BoundaryError], patience_s: float, watches: bool
    ) -> None:
        address, self._model = model_at(target)
        addresses = several(address)
        if named := [each for each in addresses if "/" in each and len(addresses) > 1]:
            raise Problem(f"{named[0]}: the model's name comes once, behind the last address")
        name = f"{boundary.boundary}/{self._model}" if self._model else boundary.boundary
        names = [name] if len(addresses) == 1 else [f"{name}#{number}" for number in range(1, len(addresses) + 1)]
        self._replicas = [
            _Replica(each, self._model, Link(each, timeout_s, boundary, name), watches)
            for each, name in zip(addresses, names, strict=True)
        ]
        self._boundary = boundary
        self._patience = Patience(patience_s, boundary.boundary, address) if patience_s else None

    @property
    def replicas(self) -> list[Self]:
        """Clients of one service each, in the order of `target`, over the links of this one."""
        clients = [copy(self) for _ in self._replicas]
        for client, replica in zip(clients, self._replicas, strict=True):
            client._replicas = [replica]
        return clients

    async def info(self) -> ModelInfo:
        """Returns the model that is served, without patience: that of the first service which answers."""
        *others, last = self._replicas
        for replica in others:
            with suppress(BoundaryError):
                return await replica.info()
        return await last.info()

    async def agree(self) -> bool:
        """Returns whether the services that answer hold the same model."""
        asked = await asyncio.gather(*(replica.info() for replica in self._replicas), return_exceptions=True)
        return len({info.model for info in asked if isinstance(info, ModelInfo)}) <= 1

    async def load(self, path: str, adapter: str) -> ModelInfo:
        """Loads another adapter (empty: none) and base model (empty: the same); requests in progress finish first.

        Services load it one after the other. If one fails, those before it have the new model, and those after it the
        old one; the same call again completes that.
        """
        infos: list[ModelInfo] = []
        for replica in self._replicas:
            try:
                infos.append(await replica.load(path, adapter))
            except BoundaryError as error:
                if len(self._replicas) == 1:
                    raise
                raise self._boundary(error.failure, self._partly(replica, error.message, infos), error.field) from error
            if (infos[-1].model, infos[-1].card) != (infos[0].model, infos[0].card):
                told = f"these files are {infos[-1].model} there, and another model at {self._replicas[0].address}"
                raise self._boundary(Failure.BROKEN, self._partly(replica, told, infos))
        return infos[-1]

    def _partly(self, failed: _Replica, message: str, infos: Sequence[ModelInfo]) -> str:
        have = "has" if len(infos) == 1 else "have"
        return f"{failed.address}: {message}; {len(infos)} of {len(self._replicas)} services {have} loaded it"

    async def _generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        request = models.generate_request(messages, sampling, self._model)

        async def ask() -> Any:
            choice = Choice(self._replicas, _beginning(messages))
            while True:
                replica = choice.replica
                try:
                    return await replica.link.once(replica.stub.Generate, request)
                except self._boundary as error:
                    choice.move(error)

        return models.completion_of(await (self._patience(ask) if self._patience else ask()))

    async def close(self) -> None:
        for replica in self._replicas:
            await replica.close()


def _beginning(messages: Sequence[Message]) -> str:
    """Returns the text that tells conversations apart and does not change as they go on.

    Instructions may be the same in all of them.
    """
    return next((message.content for message in messages if message.role != "system"), "")


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
        return await self._generate(dialogue(spans), sampling)


class GrpcGenerator(_GrpcModel):
    """Generator port."""

    def __init__(self, target: str, timeout_s: float, patience_s: float = 0.0, watches: bool = False) -> None:
        super().__init__(target, timeout_s, GeneratorError, patience_s, watches)

    async def write(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        return await self._generate(messages, sampling)

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        request = models.generate_request(messages, sampling, self._model)
        choice, has_begun = Choice(self._replicas, _beginning(messages)), False
        while True:
            replica = choice.replica
            try:
                async for piece in replica.link.stream(replica.stub.GenerateStream, request):
                    has_begun = True
                    yield models.completion_of(piece)
                return
            except GeneratorError as error:
                if has_begun:
                    raise
                choice.move(error)


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
