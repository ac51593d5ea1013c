"""Outgoing calls end with the request that they serve."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest

from common import client, context
from common.backends import GrpcRetriever
from common.indexes import Edit, Removal
from common.settings import ServiceSettings
from contracts.v1 import retriever_pb2 as pb
from contracts.v1.retriever_pb2_grpc import RetrieverServicer, add_RetrieverServicer_to_server
from search_agent.errors import Failure, RetrieverError
from tests.serving import grpc_service
from tests.waiting import LIMIT_S


class Late(grpc.aio.AioRpcError):
    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata(), "ipv4:10.0.0.1:1")


async def test_a_call_takes_its_own_time_or_what_the_request_has_left() -> None:
    asked: list[float] = []

    async def method(request: Any, **options: Any) -> str:
        asked.append(options["timeout"])
        return "found"

    assert await client.call(method, "q", 7, RetrieverError) == "found"
    context.begin_time(100)
    await client.call(method, "q", 7, RetrieverError)
    context.begin_time(3)
    await client.call(method, "q", 7, RetrieverError)
    assert asked[:2] == [7, 7]
    assert 2.9 < asked[2] <= 3


@pytest.mark.parametrize(
    ("limit_s", "said"), [(100, "it did not answer in time"), (0, "the time for the whole request")]
)
async def test_whose_time_is_over_is_told_and_no_address(limit_s: float, said: str) -> None:
    async def method(request: Any, **options: Any) -> str:
        raise Late

    context.begin_time(limit_s)
    with pytest.raises(RetrieverError, match=said) as raised:
        await client.call(method, "q", 7, RetrieverError)
    assert raised.value.failure is Failure.TIMEOUT
    assert "10.0.0.1" not in str(raised.value)


class Accepting(RetrieverServicer):
    """Counts the edits of changes and says whether they came whole; refuses those of the index "no" at once."""

    def __init__(self) -> None:
        self.came: list[tuple[int, bool]] = []

    async def ChangePassages(self, requests: Any, call: Any) -> pb.Change:
        edits, whole = 0, False
        async for request in requests:
            if request.index == "no":
                raise RetrieverError(Failure.UNSUPPORTED, "it is read-only", "index")
            edits += len(request.edits)
            whole = request.last
        self.came.append((edits, whole))
        return pb.Change(removals=edits)


async def test_edits_are_sent_whole_or_not_at_all() -> None:
    async def edits(count: int, fault: Exception | None = None) -> AsyncIterator[Edit]:
        for number in range(count):
            yield Removal(str(number))
        if fault:
            raise fault

    service, settings = Accepting(), ServiceSettings(port=0, metrics_port=0)
    register = partial(add_RetrieverServicer_to_server, service)
    async with grpc_service("retriever", "v1.Retriever", settings, register) as address:
        retriever = GrpcRetriever(address, LIMIT_S)
        assert (await retriever.change_passages("yes", edits(100))).removals == 100
        with pytest.raises(ValueError, match="line 50"):
            await retriever.change_passages("yes", edits(50, ValueError("line 50")))
        with pytest.raises(RetrieverError, match="index: it is read-only") as raised:
            await retriever.change_passages("no", edits(10_000))
        assert raised.value.failure is Failure.UNSUPPORTED
        assert [edits for edits, whole in service.came if whole] == [100]
        await retriever.close()
