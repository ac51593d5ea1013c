"""News of what services serve, over gRPC in this process: no client believes what has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import pytest

from common.backends import GrpcGenerator, GrpcRetriever
from common.pushed import Bell, Pushed, told
from common.server import start
from common.settings import ServiceSettings
from contracts.v1 import generator_pb2 as pb
from contracts.v1 import retriever_pb2
from contracts.v1.generator_pb2_grpc import GeneratorServicer, add_GeneratorServicer_to_server
from contracts.v1.retriever_pb2_grpc import RetrieverServicer, add_RetrieverServicer_to_server
from search_agent.errors import Failure, GeneratorError
from search_agent.types import Message, Sampling
from tests.serving import grpc_service
from tests.waiting import LIMIT_S, settled, until_async


class Settings(ServiceSettings):
    port: int = 0
    metrics_port: int = 0
    max_in_flight: int = 1


@dataclass
class Model(GeneratorServicer):
    """A model that is loaded by hand."""

    model: str
    asked: int = 0
    bell: Bell = field(default_factory=Bell)

    def load(self, model: str) -> None:
        self.model = model
        self.bell.ring()

    async def _info(self) -> pb.ModelInfoResponse:
        return pb.ModelInfoResponse(model=self.model)

    async def ModelInfo(self, request: Any, context: Any) -> pb.ModelInfoResponse:
        self.asked += 1
        return await self._info()

    async def WatchModel(self, request: Any, context: Any) -> AsyncIterator[pb.ModelInfoResponse]:
        async with aclosing(told(self._info, self.bell)) as news:
            async for info in news:
                yield info

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(finish_reason=pb.STOP, model=self.model)


@asynccontextmanager
async def serving(model: Model, port: int = 0) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    server, port = await start(
        "generator", "v1.Generator", Settings(port=port), partial(add_GeneratorServicer_to_server, model)
    )
    try:
        yield server, port
    finally:
        await server.stop(0)


@asynccontextmanager
async def watching(target: str) -> AsyncIterator[GrpcGenerator]:
    client = GrpcGenerator(target, LIMIT_S, watches=True)
    try:
        yield client
    finally:
        await client.close()


async def is_told(client: GrpcGenerator, model: Model) -> None:
    """Waits until the client need not ask the model."""

    async def need_not_ask() -> bool:
        asked = model.asked
        return (await client.info()).model == model.model and model.asked == asked

    await until_async(need_not_ask)


async def writer(client: GrpcGenerator) -> str:
    """Returns the model that the next answer comes from."""
    (piece,) = [piece async for piece in client.stream([Message("user", "q")], Sampling(1))]
    return piece.model


async def test_a_change_is_told_and_needs_no_question() -> None:
    model = Model("m@1", bell=Bell(LIMIT_S))  # by the change itself, not by the next beat
    async with serving(model) as (_, port), watching(f"127.0.0.1:{port}") as client:
        await is_told(client, model)
        asked = model.asked
        model.load("m@2")
        await until_async(partial(says, client, "m@2"))
        assert model.asked == asked


async def test_who_watches_takes_no_place_among_the_calls_at_once() -> None:
    model = Model("m@1")
    async with serving(model) as (_, port), watching(f"127.0.0.1:{port}") as client:
        await is_told(client, model)
        assert await writer(client) == "m@1"


async def test_a_model_that_was_changed_while_the_service_was_away_is_the_next_one_told() -> None:
    before, after = Model("m@1"), Model("m@2")
    async with serving(before) as (server, port), watching(f"127.0.0.1:{port}") as client:
        await is_told(client, before)
        await server.stop(0)
        await until_async(partial(says, client, Failure.UNAVAILABLE))
        async with serving(after, port):
            while (said := await what(client)) == Failure.UNAVAILABLE:
                pass
            assert said == "m@2"
            await is_told(client, after)


async def what(client: GrpcGenerator) -> str:
    """Returns the model that the client knows of, or why it knows of none."""
    try:
        return (await client.info()).model
    except GeneratorError as error:
        return error.failure


async def says(client: GrpcGenerator, expected: str) -> bool:
    return await what(client) == expected


async def test_a_service_that_stops_ends_its_streams_before_its_calls() -> None:
    model = Model("m@1", bell=Bell(LIMIT_S))  # by the change itself, not by the next beat
    async with serving(model) as (_, port), watching(f"127.0.0.1:{port}") as client:
        await is_told(client, model)
        asked = model.asked
        model.bell.close()
        model.model = "m@2"  # of the replica that takes the calls now
        await until_async(partial(asks, client, model, asked))


async def asks(client: GrpcGenerator, model: Model, before: int) -> bool:
    await client.info()
    return model.asked > before


async def test_of_two_replicas_the_one_is_heard_that_answers() -> None:
    one, two = Model("m@1"), Model("m@2")
    async with (
        serving(one) as (server, first),
        serving(two) as (_, second),
        watching(f"ipv4:127.0.0.1:{first},127.0.0.1:{second}") as client,
    ):
        await is_told(client, one)
        assert await writer(client) == "m@1"
        await server.stop(0)
        await until_async(partial(says, client, "m@2"))
        assert await writer(client) == "m@2"
        await is_told(client, two)


async def test_a_service_without_the_call_is_asked() -> None:
    class Old(RetrieverServicer):
        async def ListIndexes(self, request: Any, context: Any) -> retriever_pb2.ListIndexesResponse:
            return retriever_pb2.ListIndexesResponse(indexes=[{"name": "demo", "version": "1"}])

    register = partial(add_RetrieverServicer_to_server, Old())
    async with grpc_service("retriever", "v1.Retriever", Settings(), register) as address:
        client = GrpcRetriever(address, LIMIT_S, watches=True)
        for _ in range(3):
            assert [index.version for index in await client.indexes()] == ["1"]
        await client.close()


class Line:
    """A connection without a service, over which a test sends what it likes, and a clock that it moves."""

    def __init__(self) -> None:
        self.now, self.asked, self.opened = 0.0, 0, 0
        self.sent: asyncio.Queue[str] = asyncio.Queue()
        self.pushed = Pushed(self._ask, self._watch, lambda: self.now)

    async def _ask(self) -> str:
        self.asked += 1
        return "asked"

    async def _watch(self) -> AsyncGenerator[str, None]:
        self.opened += 1
        while True:
            value = await self.sent.get()
            if value == "garbage":
                raise ValueError(value)
            yield value

    async def get(self, told: str = "") -> str:
        if told:
            self.sent.put_nowait(told)
            await settled()
        return await self.pushed.get()


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    assert await line.get() == "asked"
    yield line
    await line.pushed.close()


async def test_a_silent_service_is_believed_for_two_and_a_half_seconds(line: Line) -> None:
    assert await line.get("v1") == "v1"
    line.now = 2.4
    assert await line.get() == "v1"
    line.now = 2.6
    assert await line.get() == "asked"
    assert await line.get("v2") == "v2"
    assert line.opened == 1


async def test_a_message_that_cannot_be_read_is_no_reason_to_believe_the_one_before(line: Line) -> None:
    assert await line.get("v1") == "v1"
    assert await line.get("garbage") == "asked"


async def test_a_ring_between_reading_and_waiting_is_heard() -> None:
    bell, values = Bell(LIMIT_S), iter(range(3))

    async def tell() -> int:
        value = next(values)
        if value == 0:
            bell.ring()  # a change that this reading may have missed
            await asyncio.sleep(0)
        return value

    async with aclosing(told(tell, bell)) as news:
        assert [await anext(news), await anext(news)] == [0, 1]


async def test_a_thread_may_ring() -> None:
    bell, values = Bell(LIMIT_S), iter(range(3))

    async def tell() -> int:
        return next(values)

    async with aclosing(told(tell, bell)) as news:
        assert await anext(news) == 0
        coming: Callable[[], Awaitable[int]] = partial(anext, news)
        waiting = asyncio.ensure_future(coming())
        await asyncio.sleep(0)  # it listens
        await asyncio.to_thread(bell.ring)
        assert await waiting == 1


async def test_a_stream_tells_at_each_beat() -> None:
    values = iter(range(3))

    async def tell() -> int:
        return next(values)

    async with aclosing(told(tell, Bell(0.001))) as news:
        assert [await anext(news) for _ in range(3)] == [0, 1, 2]
