"""Keys and limits on a real Redis, which two gateways share."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from common.keys import Limits, RedisKeys, Scope, make
from search_agent.errors import Failure, KeysError
from services.gateway.counters import RedisCounters, SpareCounters
from tests.integration.conftest import RedisServer
from tests.waiting import LIMIT_S, until_async


@pytest.fixture
async def counters(redis_server: RedisServer) -> AsyncIterator[list[RedisCounters]]:
    both = [RedisCounters(redis_server.url, LIMIT_S) for _ in range(2)]
    yield both
    for each in both:
        await each.close()


async def test_a_key_is_kept_for_all_and_revoked_for_all(redis_server: RedisServer) -> None:
    first, second = RedisKeys(redis_server.url, LIMIT_S), RedisKeys(redis_server.url, LIMIT_S)
    key, _ = make("wéb", [Scope.ASK], ["demo"], timedelta(days=1), Limits(requests_per_minute=3))
    later = replace(key, id="later", created_at=key.created_at + timedelta(hours=1))
    await first.add(later)
    await first.add(key)
    assert await second.get(key.id) == key
    assert await second.all() == [key, later]
    await first._redis.hset("search-agent:keys", "damaged", '{"id": 1}')
    assert await second.get("damaged") is None
    assert await second.all() == [key, later]
    assert await second.remove(key.id)
    assert await first.get(key.id) is None
    redis_server.stop()
    with pytest.raises(KeysError) as raised:
        await first.get(key.id)
    assert raised.value.failure is Failure.UNAVAILABLE
    assert "127.0.0.1" not in str(raised.value)
    for store in (first, second):
        await store.close()


async def test_requests_at_once_through_two_gateways_never_pass_the_limit(counters: list[RedisCounters]) -> None:
    windows = await asyncio.gather(*(counters[n % 2].spend("a", 1, 10, 60) for n in range(40)))
    assert sum(window.spent for window in windows) == 10
    assert {window.used for window in windows if not window.spent} == {10}
    assert all(0 < window.seconds_left <= 60 for window in windows)


async def test_a_window_ends(counters: list[RedisCounters]) -> None:
    first, second = counters
    for name, length_s in (("long", 60), ("short", 0.2)):
        assert (await first.spend(name, 5, 0, length_s)).used == 5
    assert not (await second.spend("long", 0, 5, 60)).spent

    async def ended() -> bool:
        return (await second.spend("short", 0, 5, 0.2)).used == 0

    await until_async(ended)


async def test_places_hold_across_gateways_and_are_given_up_when_their_holder_dies(
    counters: list[RedisCounters],
) -> None:
    first, second = counters
    held = await asyncio.gather(*(counters[n % 2].hold("a", f"lease-{n}", 3, 60) for n in range(12)))
    assert sum(has for has, _ in held) == 3
    assert not (await second.hold("a", "late", 3, 60))[0]
    taken = next(f"lease-{n}" for n, (has, _) in enumerate(held) if has)
    await second.release("a", taken)
    assert (await first.hold("a", "late", 3, 60))[0]

    async def given_up() -> bool:
        return (await second.hold("a", "later", 1, 0.3))[0]

    await until_async(given_up)


async def test_limits_go_on_without_redis(redis_server: RedisServer) -> None:
    counters = SpareCounters(RedisCounters(redis_server.url, LIMIT_S))
    assert (await counters.spend("a", 1, 1, 60)).spent
    redis_server.stop()
    assert (await counters.spend("a", 1, 1, 60)).spent
    assert not (await counters.spend("a", 1, 1, 60)).spent
    redis_server.start()
    assert (await counters.spend("a", 1, 1, 60)).spent  # the new server knows of nothing
    await counters.close()
