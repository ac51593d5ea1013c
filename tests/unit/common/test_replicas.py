"""One model at several services, over gRPC in this process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from common.backends import GrpcGenerator, GrpcPolicy
from common.problems import Problem
from common.replicas import Choice
from common.server import start
from common.settings import ServiceSettings
from contracts.v1 import generator_pb2 as pb
from contracts.v1.generator_pb2_grpc import GeneratorServicer, add_GeneratorServicer_to_server
from search_agent.errors import BoundaryError, Failure, GeneratorError, SearcherError
from search_agent.types import Author, Message, ModelInfo, Sampling, Span
from tests.waiting import LIMIT_S, until_async, until_here

SAMPLING = Sampling(max_tokens=8)
DOWN = GeneratorError(Failure.UNAVAILABLE, "it stops")


class Settings(ServiceSettings):
    port: int = 0
    metrics_port: int = 0


@dataclass
class Model(GeneratorServicer):
    """A model of a service. It notes how the conversations begin that it continues, and waits until it may `go`."""

    model: str = "m@1"
    asked: list[str] = field(default_factory=list)
    loads: list[tuple[str, str]] = field(default_factory=list)
    error: BoundaryError | None = None
    pieces: int = 0  # of a stream before the error
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.go.set()

    async def Generate(self, request: Any, context: Any) -> pb.GenerateResponse:
        self.asked.append(next(each.content for each in request.messages if each.role == "user"))
        await self.go.wait()
        if self.error:
            raise self.error
        return pb.GenerateResponse(finish_reason=pb.STOP, model=self.model)

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        self.asked.append(request.messages[0].content)
        for _ in range(self.pieces):
            yield pb.GenerateResponse(text="piece")
        if self.error:
            raise self.error
        yield pb.GenerateResponse(text="end", finish_reason=pb.STOP, model=self.model)

    async def ModelInfo(self, request: Any, context: Any) -> pb.ModelInfoResponse:
        return pb.ModelInfoResponse(model=self.model)

    async def LoadModel(self, request: Any, context: Any) -> pb.ModelInfoResponse:
        if self.error:
            raise self.error
        self.loads.append((request.path, request.adapter))
        self.model = f"{request.adapter}@1"
        return await self.ModelInfo(request, context)


@dataclass
class Service:
    model: Model
    server: grpc.aio.Server
    address: str


@asynccontextmanager
async def serving(*models: Model) -> AsyncIterator[list[Service]]:
    async with AsyncExitStack() as stack:
        services = []
        for model in models:
            register = partial(add_GeneratorServicer_to_server, model)
            server, port = await start("generator", "v1.Generator", Settings(), register)
            stack.push_async_callback(server.stop, 0)
            services.append(Service(model, server, f"127.0.0.1:{port}"))
        yield services


def target(services: Sequence[Service], name: str = "") -> str:
    return ",".join(service.address for service in services) + name


@asynccontextmanager
async def asking(services: Sequence[Service], patience_s: float = 0.0) -> AsyncIterator[GrpcPolicy]:
    client = GrpcPolicy(target(services, "/m"), LIMIT_S, patience_s)
    try:
        yield client
    finally:
        await client.close()


def spans(question: int, turn: int = 0) -> list[Span]:
    """Returns a dialogue of the question after so many turns."""
    turns = [Span(Author.POLICY, "a search"), Span(Author.ENVIRONMENT, "a block")] * turn
    return [Span(Author.ENVIRONMENT, f"What is the {question}th?"), *turns]


async def test_conversations_are_spread_evenly_and_each_stays_at_one_service() -> None:
    async with serving(Model(), Model(), Model()) as services, asking(services) as client:
        for turn in range(3):
            await asyncio.gather(*(client.complete(spans(number, turn), SAMPLING) for number in range(200)))
        counts = [Counter(service.model.asked) for service in services]
        assert sum(len(count) for count in counts) == 200  # none is at two
        assert {turns for count in counts for turns in count.values()} == {3}
        assert all(50 < len(count) < 84 for count in counts), [len(count) for count in counts]


async def test_instructions_that_all_share_do_not_bring_all_to_one_service() -> None:
    async with serving(Model(), Model()) as services:
        client = GrpcGenerator(target(services), LIMIT_S)
        for number in range(40):
            await client.write([Message("system", "Be brief."), Message("user", f"{number}?")], SAMPLING)
        assert all(10 < len(service.model.asked) < 30 for service in services)
        await client.close()


async def test_a_service_that_dies_fails_no_question() -> None:
    async with serving(Model(), Model()) as services, asking(services) as client:
        dying, staying = services
        for number in range(20):
            await client.complete(spans(number), SAMPLING)
        dying.model.go.clear()
        under_way = [asyncio.create_task(client.complete(spans(number), SAMPLING)) for number in range(20)]
        await until_here(lambda: len(dying.model.asked) + len(staying.model.asked) == 40)
        await dying.server.stop(0)
        await asyncio.gather(*under_way)
        for number in range(40):
            await client.complete(spans(number), SAMPLING)
        assert len(set(dying.model.asked)) > 5
        assert len(set(staying.model.asked)) == 40  # it took those of the other too


async def test_one_service_of_three_answers_all_questions() -> None:
    async with serving(Model(), Model(), Model()) as services, asking(services) as client:
        for service in services[:2]:
            await service.server.stop(0)
        for number in range(6):
            await client.complete(spans(number), SAMPLING)
        assert len(services[2].model.asked) == 6


async def test_without_any_service_the_failure_is_that_of_one() -> None:
    async with serving(Model(), Model()) as services, asking(services) as client:
        for service in services:
            await service.server.stop(0)
        for _ in range(6):  # in the end, without a call
            with pytest.raises(SearcherError, match="cannot be reached") as caught:
                await client.complete(spans(1), SAMPLING)
            assert caught.value.failure is Failure.UNAVAILABLE
        with pytest.raises(SearcherError, match="cannot be reached"):
            await client.info()


async def test_patience_asks_the_others_first() -> None:
    async with serving(Model(), Model()) as services, asking(services, patience_s=LIMIT_S) as client:
        await services[0].server.stop(0)
        async with asyncio.timeout(30):
            for number in range(10):
                await client.complete(spans(number), SAMPLING)
        assert len(services[1].model.asked) == 10


async def test_what_a_service_refuses_is_not_asked_of_another() -> None:
    async with serving(Model(), Model()) as services, asking(services) as client:
        for service in services:
            service.model.error = SearcherError(Failure.TOO_LONG, "too long", "messages")
        with pytest.raises(SearcherError, match="too long"):
            await client.complete(spans(1), SAMPLING)
        assert sum(len(service.model.asked) for service in services) == 1


@pytest.mark.parametrize(("pieces", "moves"), [(0, True), (1, False)])
async def test_a_stream_moves_only_before_its_first_piece(pieces: int, moves: bool) -> None:
    async with serving(Model(error=DOWN, pieces=pieces), Model()) as services:
        client = GrpcGenerator(target(services), LIMIT_S)
        beginnings = (str(number) for number in range(100))
        failed: list[list[str]] = []
        for text in beginnings:
            told: list[str] = []
            try:
                async for piece in client.stream([Message("user", text)], SAMPLING):
                    told.append(piece.text)
                assert told == ["end"]
            except GeneratorError:
                failed.append(told)
            if services[0].model.asked:
                break
        assert failed == ([] if moves else [["piece"]])
        await client.close()


async def test_the_model_is_that_of_the_first_service_that_answers() -> None:
    async with serving(Model("m@1"), Model("m@2")) as services, asking(services) as client:
        assert (await client.info()).model == "m@1"
        await services[0].server.stop(0)
        assert (await client.info()).model == "m@2"
        with pytest.raises(SearcherError):
            await client.replicas[0].info()
        assert (await client.replicas[1].info()).model == "m@2"


async def test_a_model_that_changes_is_told_by_the_services_themselves() -> None:
    async with serving(Model("m@1"), Model("m@1")) as services:
        client = GrpcPolicy(target(services), LIMIT_S, watches=True)

        async def says(model: str) -> bool:
            return (await client.info()).model == model

        await until_async(partial(says, "m@1"))
        await client.load("", "new")
        await until_async(partial(says, "new@1"))
        await client.close()


async def test_a_model_is_loaded_into_each_service() -> None:
    async with serving(Model(), Model()) as services, asking(services) as client:
        assert await client.load("", "new") == ModelInfo("new@1")
        assert [service.model.loads for service in services] == [[("", "new")]] * 2


async def test_a_load_that_fails_half_way_says_where_and_the_same_call_completes_it() -> None:
    async with serving(Model(), Model(), Model()) as services, asking(services) as client:
        services[1].model.error = SearcherError(Failure.BROKEN, "no such file", "adapter")
        with pytest.raises(SearcherError) as caught:
            await client.load("", "new")
        assert caught.value.message == f"{services[1].address}: no such file; 1 of 3 services has loaded it"
        assert (caught.value.failure, caught.value.field) == (Failure.BROKEN, "adapter")
        assert [service.model.model for service in services] == ["new@1", "m@1", "m@1"]
        services[1].model.error = None
        await client.load("", "new")
        assert [service.model.model for service in services] == ["new@1"] * 3


async def test_files_that_differ_between_services_are_told() -> None:
    class Other(Model):
        async def LoadModel(self, request: Any, context: Any) -> pb.ModelInfoResponse:
            return pb.ModelInfoResponse(model="new@2")

    async with serving(Model(), Other()) as services, asking(services) as client:
        with pytest.raises(SearcherError, match=f"are new@2 there, and another model at {services[0].address}"):
            await client.load("", "new")


async def test_each_service_has_a_breaker_of_its_own_in_the_metrics() -> None:
    def breakers() -> set[str]:
        found = {sample.labels["backend"] for metric in REGISTRY.collect() for sample in metric.samples
                 if metric.name == "search_agent_breaker"}  # fmt: skip
        return {name for name in found if "labelled" in name}

    for name, labels in (("a:1/labelled1", {"searcher/labelled1"}),
                         ("a:1,b:1/labelled2", {"searcher/labelled2#1", "searcher/labelled2#2"})):  # fmt: skip
        client = GrpcPolicy(name, LIMIT_S)
        assert {each for each in breakers() if name[-9:] in each} == labels
        await client.close()


@dataclass(eq=False)
class Fake:
    is_away: bool = False


def test_what_one_that_is_away_had_is_spread_over_all_others() -> None:
    replicas = [Fake() for _ in range(4)]
    before = {text: Choice(replicas, text).replica for text in map(str, range(4000))}
    replicas[2].is_away = True
    after = {text: Choice(replicas, text).replica for text in before}
    assert all(after[text] is replica for text, replica in before.items() if replica is not replicas[2])
    moved = Counter(replicas.index(after[text]) for text, replica in before.items() if replica is replicas[2])
    assert set(moved) == {0, 1, 3}
    assert all(250 < count < 420 for count in moved.values()), moved


def test_a_call_moves_on_to_each_that_is_not_away() -> None:
    replicas = [Fake() for _ in range(4)]
    choice = Choice(replicas, "q")
    first = choice.replica
    away = next(each for each in replicas if each is not first)
    away.is_away = True
    asked = [first]
    for _ in range(2):
        choice.move(DOWN)
        asked.append(choice.replica)
    assert {id(each) for each in asked} == {id(each) for each in replicas if each is not away}
    with pytest.raises(GeneratorError, match="it stops"):
        choice.move(DOWN)
    for each in replicas:
        each.is_away = True
    assert Choice(replicas, "q").replica is first


def test_a_name_behind_each_address_is_refused() -> None:
    with pytest.raises(Problem, match="gpu0:1/m: the model's name comes once, behind the last address"):
        GrpcPolicy("gpu0:1/m,gpu1:1/m", LIMIT_S)
