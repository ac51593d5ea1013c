"""The shell around the services over real gRPC: health, reflection, ids, typed errors, limits."""

import asyncio
from pathlib import Path

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common import client, context, healthcheck, server
from common.errors import GRPC_CODE
from contracts.v1 import trainer_pb2 as pb
from contracts.v1.trainer_pb2_grpc import TrainerServicer, TrainerStub
from search_agent.errors import Failure, TrainerError
from services.trainer.settings import TrainerSettings
from tests.integration.served import Served
from tests.waiting import LIMIT_S


async def test_health_and_reflection(tmp_path: Path) -> None:
    served = Served(tmp_path, Scripted())
    async with served:
        health = health_pb2_grpc.HealthStub(served.channel)
        check = await health.Check(health_pb2.HealthCheckRequest(service="v1.Trainer"))
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        async for answer in reflection.ServerReflectionInfo(asked):
            names = [service.name for service in answer.list_services_response.service]
        assert "v1.Trainer" in names


class Scripted(TrainerServicer):
    """Raises, waits, or returns the ids it was called with."""

    def __init__(self, error: Exception | None = None, wait: asyncio.Event | None = None) -> None:
        self._error, self._wait = error, wait
        self.asked = asyncio.Event()
        self.seen: dict[str, object] = {}

    async def ListRuns(self, request: pb.ListRunsRequest, context: grpc.aio.ServicerContext) -> pb.ListRunsResponse:
        self.seen = dict(structlog.contextvars.get_contextvars())
        self.asked.set()
        if self._error:
            raise self._error
        if self._wait:
            await self._wait.wait()
        return pb.ListRunsResponse()


@pytest.mark.parametrize("failure", list(Failure))
async def test_failures_cross_the_wire_as_they_are(tmp_path: Path, failure: Failure) -> None:
    error = TrainerError(failure, "so it is", "runs[0]", 1.25)
    async with Served(tmp_path, Scripted(error)) as stub:
        with pytest.raises(TrainerError) as caught:
            await client.call(stub.ListRuns, pb.ListRunsRequest(), LIMIT_S, TrainerError)
    assert caught.value.args == (failure, "so it is", "runs[0]", 1.25)


def test_the_table_has_every_failure_once() -> None:
    assert set(GRPC_CODE) == set(Failure)
    assert len(set(GRPC_CODE.values())) == len(Failure)


async def test_a_crash_keeps_its_secrets(tmp_path: Path) -> None:
    async with Served(tmp_path, Scripted(RuntimeError("secret"))) as stub:
        with pytest.raises(TrainerError, match="its log has the details") as caught:
            await client.call(stub.ListRuns, pb.ListRunsRequest(), LIMIT_S, TrainerError)
    assert caught.value.failure is Failure.BROKEN


async def test_ids_travel_with_the_call(tmp_path: Path) -> None:
    servicer = Scripted()
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    async with Served(tmp_path, servicer) as stub:
        context.begin({"request-id": "mine", "traceparent": trace})
        await client.call(stub.ListRuns, pb.ListRunsRequest(), LIMIT_S, TrainerError)
    assert servicer.seen == {"request_id": "mine", "trace_id": "ab" * 16}


async def test_deadlines_and_limits(tmp_path: Path) -> None:
    release = asyncio.Event()
    servicer = Scripted(wait=release)
    async with Served(tmp_path, servicer, max_in_flight=1) as stub:
        held = asyncio.create_task(client.call(stub.ListRuns, pb.ListRunsRequest(), LIMIT_S, TrainerError))
        await servicer.asked.wait()
        with pytest.raises(TrainerError) as caught:
            await client.call(stub.ListRuns, pb.ListRunsRequest(), LIMIT_S, TrainerError)
        assert caught.value.failure is Failure.OVERLOADED
        release.set()
        await held
        release.clear()
        with pytest.raises(TrainerError) as caught:
            await client.call(stub.ListRuns, pb.ListRunsRequest(), 0.2, TrainerError)
        assert caught.value.failure is Failure.TIMEOUT


class Large(TrainerServicer):
    async def ListRuns(self, request: pb.ListRunsRequest, context: grpc.aio.ServicerContext) -> pb.ListRunsResponse:
        return pb.ListRunsResponse(runs=[pb.Run(config="x" * (server.MAX_MESSAGE_BYTES + 1))])


async def test_a_message_above_the_limit_is_no_overload(tmp_path: Path) -> None:
    async with Served(tmp_path, Large()) as stub:
        with pytest.raises(TrainerError, match="too large; ask for less") as caught:
            await client.call(stub.ListRuns, pb.ListRunsRequest(), LIMIT_S, TrainerError)
    assert caught.value.failure is Failure.INVALID  # asked again, it would fail again


async def test_nobody_there(tmp_path: Path) -> None:
    channel = client.connect("127.0.0.1:1")
    with pytest.raises(TrainerError) as caught:
        await client.call(TrainerStub(channel).ListRuns, pb.ListRunsRequest(), LIMIT_S, TrainerError)
    assert caught.value.failure is Failure.UNAVAILABLE
    await channel.close()


@pytest.mark.parametrize("host", ["::1", "::", "127.0.0.1"])
async def test_every_kind_of_host_is_served_and_asked_past_a_proxy(
    tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    settings = TrainerSettings(runs=tmp_path, host=host, port=0, metrics_port=0)
    async with Served(tmp_path, Scripted(), settings=settings) as stub:
        assert await client.call(stub.ListRuns, pb.ListRunsRequest(), LIMIT_S, TrainerError) == pb.ListRunsResponse()


async def test_the_health_check_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    assert healthcheck.main([]) == "usage: python -m common.healthcheck HOST:PORT"
    assert healthcheck.main(["127.0.0.1:1"]) == "127.0.0.1:1: UNAVAILABLE"
    served = Served(tmp_path, Scripted())
    async with served:
        assert await asyncio.to_thread(healthcheck.main, [f"127.0.0.1:{served.port}"]) == 0
