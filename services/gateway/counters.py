"""Counts what each key has used: in Redis, where all gateways count together, or in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from common import redis_client
from common.redis_client import failures
from search_agent.errors import KeysError
from services.gateway.observed import count_failure

log = structlog.get_logger()
_PREFIX = "search-agent:used:"

# KEYS: the window. ARGV: amount, limit, length in ms. Returns whether it was spent, the use so far, ms to the end.
_SPEND = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
local amount, limit, length = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then left = length end
if limit > 0 and used >= limit then return {0, used, left} end
if amount > 0 then
  used = redis.call('INCRBY', KEYS[1], amount)
  redis.call('PEXPIRE', KEYS[1], left)
end
return {1, used, left}
"""
# KEYS: a sorted set of leases by their start. ARGV: the lease, limit, ms until a lease is given up. Redis's own clock
# is everybody's. Returns whether there was room, and the age of the oldest lease in ms.
_HOLD = """
local time = redis.call('TIME')
local now, length = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - length)
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local age = oldest[2] and now - tonumber(oldest[2]) or 0
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return {0, age} end
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], length)
return {1, age}
"""


@dataclass(frozen=True, slots=True)
class Window:
    """The state of a time window. `spent` is false if it was already full."""

    spent: bool
    used: int
    seconds_left: float


class Counters(Protocol):
    """Counts under names. Every method may raise KeysError."""

    async def spend(self, name: str, amount: int, limit: int, length_s: float) -> Window:
        """Adds to a window, which opens with its first use, unless the window is full.

        With a limit of 0 it is never full.
        """
        ...

    async def hold(self, name: str, lease: str, limit: int, longest_s: float) -> tuple[bool, float]:
        """Takes one of `limit` places, for at most `longest_s` should its holder die.

        Returns whether there was one, and the age in seconds of the oldest lease.
        """
        ...

    async def release(self, name: str, lease: str) -> None: ...

    async def close(self) -> None: ...


class MemoryCounters:
    """Counts in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, tuple[int, float]] = {}  # name -> use, end
        self._leases: dict[str, dict[str, float]] = {}  # name -> lease -> start

    async def spend(self, name: str, amount: int, limit: int, length_s: float) -> Window:
        now = self._clock()
        used, end = self._windows.get(name, (0, 0.0))
        if end <= now:
            used, end = 0, now + length_s
        spent = not limit or used < limit
        if spent and amount:
            used += amount
            self._windows[name] = used, end
        return Window(spent, used, end - now)

    async def hold(self, name: str, lease: str, limit: int, longest_s: float) -> tuple[bool, float]:
        now, leases = self._clock(), self._leases.setdefault(name, {})
        for old in [old for old, start in leases.items() if start <= now - longest_s]:
            del leases[old]
        age = now - min(leases.values(), default=now)
        if len(leases) >= limit:
            return False, age
        leases[lease] = now
        return True, age

    async def release(self, name: str, lease: str) -> None:
        self._leases.get(name, {}).pop(lease, None)

    async def close(self) -> None:
        """Holds nothing open."""


class RedisCounters:
    """Counts in Redis, by scripts that run as one step each."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._redis = redis_client.connect(url, timeout_s, KeysError)
        self._spend = self._redis.register_script(_SPEND)
        self._hold = self._redis.register_script(_HOLD)

    async def spend(self, name: str, amount: int, limit: int, length_s: float) -> Window:
        with failures(KeysError):
            spent, used, left = await self._spend([_PREFIX + name], [amount, limit, round(length_s * 1e3)])
        return Window(bool(spent), used, left / 1e3)

    async def hold(self, name: str, lease: str, limit: int, longest_s: float) -> tuple[bool, float]:
        with failures(KeysError):
            held, age = await self._hold([_PREFIX + name], [lease, limit, round(longest_s * 1e3)])
        return bool(held), age / 1e3

    async def release(self, name: str, lease: str) -> None:
        with failures(KeysError):
            await self._redis.zrem(_PREFIX + name, lease)

    async def close(self) -> None:
        await self._redis.aclose()


class SpareCounters:
    """Counts in Redis, or in memory while Redis does not answer, when each gateway counts for itself.

    The failure is logged once per outage.
    """

    def __init__(self, shared: Counters) -> None:
        self._shared, self._spare = shared, MemoryCounters()
        self._failing = False

    async def spend(self, name: str, amount: int, limit: int, length_s: float) -> Window:
        try:
            window = await self._shared.spend(name, amount, limit, length_s)
        except KeysError as error:
            self._failed(error)
            return await self._spare.spend(name, amount, limit, length_s)
        self._failing = False
        return window

    async def hold(self, name: str, lease: str, limit: int, longest_s: float) -> tuple[bool, float]:
        try:
            held = await self._shared.hold(name, lease, limit, longest_s)
        except KeysError as error:
            self._failed(error)
            return await self._spare.hold(name, lease, limit, longest_s)
        self._failing = False
        return held

    async def release(self, name: str, lease: str) -> None:
        await self._spare.release(name, lease)
        try:
            await self._shared.release(name, lease)
        except KeysError as error:  # the lease expires by itself
            self._failed(error)

    async def close(self) -> None:
        await self._shared.close()

    def _failed(self, error: KeysError) -> None:
        count_failure(error)
        if not self._failing:
            log.warning("limits are counted by each gateway alone", error=error.message)
        self._failing = True
