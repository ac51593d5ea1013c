"""Backends that answer at once: `python -m bench.stubs` prints the port of a retriever, a searcher and a generator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc
import uvloop

from common.pushed import BEAT_S
from contracts.v1 import generator_pb2, retriever_pb2
from contracts.v1.generator_pb2_grpc import GeneratorServicer, add_GeneratorServicer_to_server
from contracts.v1.retriever_pb2_grpc import RetrieverServicer, add_RetrieverServicer_to_server

T = TypeVar("T")
PASSAGE = retriever_pb2.Passage(id="p", title="Title", text="word " * 120, score=0.5)
INDEX = retriever_pb2.IndexInfo(name="stub", version="1", encoder="stub", is_default=True)
INDEXES = retriever_pb2.ListIndexesResponse(indexes=[INDEX])
MODEL = generator_pb2.ModelInfoResponse(model="stub@1")
MOVE = "<important_info>[1]</important_info>\n<search_complete>True</search_complete>"


async def _beats(served: T) -> AsyncIterator[T]:
    """Yields what is served, again and again, as the services do."""
    while True:
        yield served
        await asyncio.sleep(BEAT_S)


class Retriever(RetrieverServicer):
    async def Search(self, request: Any, context: Any) -> retriever_pb2.SearchResponse:
        ranked = retriever_pb2.RankedPassages(passages=[PASSAGE] * request.top_k)
        return retriever_pb2.SearchResponse(results=[ranked] * len(request.queries), index="stub", index_version="1")

    async def ListIndexes(self, request: Any, context: Any) -> retriever_pb2.ListIndexesResponse:
        return INDEXES

    async def WatchIndexes(self, request: Any, context: Any) -> AsyncIterator[retriever_pb2.ListIndexesResponse]:
        async for served in _beats(INDEXES):
            yield served


class Model(GeneratorServicer):
    async def ModelInfo(self, request: Any, context: Any) -> generator_pb2.ModelInfoResponse:
        return MODEL

    async def WatchModel(self, request: Any, context: Any) -> AsyncIterator[generator_pb2.ModelInfoResponse]:
        async for served in _beats(MODEL):
            yield served

    async def Generate(self, request: Any, context: Any) -> generator_pb2.GenerateResponse:
        text = MOVE if request.sampling.grammar else "an answer"
        return generator_pb2.GenerateResponse(text=text, finish_reason=generator_pb2.STOP, model="stub@1")

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[generator_pb2.GenerateResponse]:
        yield generator_pb2.GenerateResponse(text="an answer", finish_reason=generator_pb2.STOP, model="stub@1")


async def main() -> None:
    server = grpc.aio.server()
    add_RetrieverServicer_to_server(Retriever(), server)
    add_GeneratorServicer_to_server(Model(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
