"""The door on real sockets, and two gateways that share keys and limits in one Redis."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from common.addresses import free_port
from common.keys import Limits, RedisKeys, Scope, make
from services.gateway.counters import RedisCounters, SpareCounters
from services.gateway.door import Rules
from services.gateway.limits import Meter
from services.gateway.serving import ImpatientProtocol, server
from tests.integration.conftest import RedisServer
from tests.unit.gateway.rest import Rest
from tests.unit.gateway.test_door import Slow
from tests.waiting import LIMIT_S


class HastyProtocol(ImpatientProtocol):
    headers_s = 0.3


@asynccontextmanager
async def served(rest: Rest) -> AsyncIterator[int]:
    """Serves the gateway over fakes, and yields its port."""
    port = free_port()
    serving = server(rest.app, "127.0.0.1", port, 1, HastyProtocol)
    task = asyncio.create_task(serving.serve())
    while not serving.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        serving.should_exit = True
        await task


def test_an_idle_connection_is_kept_for_longer_than_clients_use_it() -> None:
    """A request that is sent while the server closes the connection would be lost."""
    kept = server(Rest().app, "127.0.0.1", 0, 1).config.timeout_keep_alive
    assert kept > (httpx.Limits().keepalive_expiry or 0) + 1
    assert kept > 60  # proxies


async def test_a_gateway_that_stops_says_so_first_and_ends_what_is_under_way() -> None:
    generator = Slow()
    rest, port = Rest(generator), free_port()
    serving = server(rest.app, "127.0.0.1", port, LIMIT_S, drain_s=0.3)
    task = asyncio.create_task(serving.serve())
    while not serving.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        generator.go.set()
        assert (await http.get("/readyz")).status_code == 200
        generator.go.clear()
        generator.asked.clear()
        asked = {"question": "q", "method": "direct", "stream": True}
        answer = asyncio.create_task(http.post("/v1/answer", json=asked))
        await generator.asked.wait()
        serving.handle_exit(signal.SIGTERM, None)
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "stopping")
        await asyncio.sleep(0.5)
        assert not task.done()
        generator.go.set()
        assert "event: done" in (await answer).text
        await asyncio.wait_for(task, LIMIT_S)
        with pytest.raises(httpx.ConnectError):
            await http.get("/readyz")


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-", b"GET /healthz HT"])
async def test_headers_that_do_not_come_are_not_waited_for(start: bytes) -> None:
    async with served(Rest()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        async with asyncio.timeout(LIMIT_S):
            assert await reader.read() == b""
        writer.close()


async def test_the_headers_of_a_second_request_are_not_waited_for_either() -> None:
    async with served(Rest()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        writer.write(request)
        assert b"200" in await reader.readline()
        writer.write(b"GET /heal")
        async with asyncio.timeout(LIMIT_S):
            assert b'"ok"' in await reader.read()
        writer.close()


async def test_a_long_body_is_refused_while_it_is_still_being_sent() -> None:
    async with served(Rest()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = ("POST /v1/retrieve HTTP/1.1", "Host: a", "Content-Type: application/json", "Content-Length: 100000000")
        writer.write("\r\n".join((*head, "", "")).encode())
        async with asyncio.timeout(LIMIT_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        writer.close()


CHUNKED = (
    b"POST /v1/retrieve HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: ", b"a" * 1000),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n", b"X-A: b\r\n" * 100),
        (b"GET /healthz", b"a" * 1000),
        (CHUNKED + b"0\r\n", b"X-A: b\r\n" * 100),
        (CHUNKED + b"1", b";a=b" * 100),
    ],
)
async def test_headers_that_do_not_end_are_refused(start: bytes, more: bytes) -> None:
    async with served(Rest()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        coming = asyncio.ensure_future(reader.readline())
        async with asyncio.timeout(LIMIT_S):
            while not coming.done():
                writer.write(more)
                await asyncio.sleep(0)
            assert (await coming).startswith(b"HTTP/1.1 4")
        writer.close()


async def test_the_rest_of_a_body_that_was_refused_costs_no_answer() -> None:
    async with served(Rest()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b"a" * 2_000_000
        head = f"POST /v1/retrieve HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        writer.write(head.encode() + b"\r\n\r\n" + body)
        async with asyncio.timeout(LIMIT_S):
            await writer.drain()
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
            while await reader.readline() != b"\r\n":
                pass
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b'{"status":"ok"}')
        writer.close()


async def test_limits_hold_across_two_gateways(redis_server: RedisServer) -> None:
    keys = RedisKeys(redis_server.url, LIMIT_S)
    mine, secret = make("mine", [Scope.ASK], limits=Limits(requests_per_minute=10, tokens_per_day=60))
    await keys.add(mine)
    headers = {"authorization": f"Bearer {secret}"}

    def rest() -> Rest:
        counters = SpareCounters(RedisCounters(redis_server.url, LIMIT_S))
        return Rest(rules=Rules(RedisKeys(redis_server.url, LIMIT_S), Meter(counters)))

    async with served(rest()) as first, served(rest()) as second, httpx.AsyncClient() as http:
        at = [f"http://127.0.0.1:{port}/v1/answer" for port in (first, second)]
        asked = {"question": "q", "method": "direct"}
        answers = await asyncio.gather(*(http.post(at[n % 2], json=asked, headers=headers) for n in range(24)))
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(200) <= 10
        assert 200 in statuses
        limits = {answer.json()["limit"] for answer in answers if answer.status_code == 429}
        assert "requests_per_minute" in limits
        assert set(statuses) == {200, 429}
        await keys.remove(mine.id)
        for url in at:
            assert (await http.post(url, json=asked, headers=headers)).status_code == 401
    await keys.close()
