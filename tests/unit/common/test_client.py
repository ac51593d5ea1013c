"""Outgoing calls end with the request that they serve."""

from typing import Any

import grpc
import pytest

from common import client, context
from search_agent.errors import Failure, RetrieverError


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
