"""The shell around gRPC services: a message that is none is the caller's fault."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest

from common.errors import from_rpc
from common.settings import ServiceSettings
from contracts.v1 import generator_pb2 as pb
from contracts.v1.generator_pb2_grpc import GeneratorServicer, add_GeneratorServicer_to_server
from search_agent.errors import Failure, GeneratorError
from tests.serving import grpc_service


class Settings(ServiceSettings):
    port: int = 0
    metrics_port: int = 0


class Echo(GeneratorServicer):
    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        if request.prompt == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/path/of/this/machine")
        if request.prompt == "unknown":
            raise GeneratorError(Failure.INVALID, "😀" * 5000, "字" * 5000)
        return pb.GenerateResponse(text=request.prompt)

    async def GenerateStream(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(text=request.prompt)


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    register = partial(add_GeneratorServicer_to_server, Echo())
    async with (
        grpc_service("generator", "v1.Generator", Settings(), register) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


NO_MESSAGES = [b"\xff\xff", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x02\xed\xa0", bytes(range(255, 0, -1))]


async def called(channel: grpc.aio.Channel, method: str, message: bytes) -> bytes:
    if method == "Generate":
        return bytes(await channel.unary_unary(f"/v1.Generator/{method}")(message))
    return b"".join([part async for part in channel.unary_stream(f"/v1.Generator/{method}")(message)])


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_a_message_that_cannot_be_decoded_is_an_invalid_argument(channel: grpc.aio.Channel, method: str) -> None:
    sent = pb.GenerateRequest(prompt="東京")
    assert pb.GenerateResponse.FromString(await called(channel, method, sent.SerializeToString())).text == "東京"
    for message in NO_MESSAGES:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await called(channel, method, message)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, message


async def test_a_full_disk_is_told_without_its_paths(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await called(channel, "Generate", pb.GenerateRequest(prompt="full").SerializeToString())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "the disk of the generator: No space left on device"


async def test_a_long_error_in_any_script_reaches_the_client(channel: grpc.aio.Channel) -> None:
    for _ in range(10):  # a client refuses metadata above its soft limit by chance
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await called(channel, "Generate", pb.GenerateRequest(prompt="unknown").SerializeToString())
        error = from_rpc(caught.value, GeneratorError)
        assert (error.failure, error.field) == (Failure.INVALID, "字" * 200)
        assert error.message == "😀" * 250
