"""The clients of the services over gRPC in this process."""

from functools import partial
from typing import Any

from common.backends import GrpcRetriever
from common.settings import ServiceSettings
from contracts.v1 import retriever_pb2 as pb
from contracts.v1.retriever_pb2_grpc import RetrieverServicer, add_RetrieverServicer_to_server
from search_agent.types import Retrieval
from tests.serving import grpc_service
from tests.waiting import LIMIT_S


class Counting(RetrieverServicer):
    """Finds each query itself, and counts the queries of its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def Search(self, request: Any, context: Any) -> pb.SearchResponse:
        self.calls.append(len(request.queries))
        return pb.SearchResponse(results=[{"passages": [{"id": query}]} for query in request.queries])


async def test_large_batches_are_asked_in_calls_whose_answers_fit_a_message() -> None:
    servicer, settings = Counting(), ServiceSettings(port=0, metrics_port=0)
    register = partial(add_RetrieverServicer_to_server, servicer)
    async with grpc_service("retriever", "v1.Retriever", settings, register) as address:
        retriever = GrpcRetriever(address, LIMIT_S)
        queries = [str(number) for number in range(130)]
        for top_k, calls in ((3, [128, 2]), (1000, [*[8] * 16, 2]), (10_000, [1] * 130)):
            servicer.calls.clear()
            found = await retriever.search(queries, Retrieval(top_k))
            assert [passages[0].id for passages in found] == queries
            assert servicer.calls == calls
        await retriever.close()
