"""Limits of each caller: requests a minute, questions at once, tokens a day."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from functools import lru_cache
from http import HTTPStatus

from common.keys import Limits
from services.gateway.caller import Caller
from services.gateway.counters import Counters, MemoryCounters, Window
from services.gateway.problems import Problem, Refused

_CALLERS = 1024  # whose limits are kept
_MINUTE_S, _DAY_S = 60, 24 * 3600
_RECENT = 0.2  # the weight of the newest question in the mean time of a question


class TooMany(Refused):
    """The caller has used what it may. `limit` names the limit."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, limit: str, detail: str, wait_s: float) -> None:
        super().__init__(detail)
        self.limit = limit
        self.headers = {"Retry-After": str(max(1, math.ceil(wait_s)))}

    def problem(self) -> Problem:
        return Problem(self.status, str(self), more={"limit": self.limit}, headers=self.headers)


class Meter:
    """Holds callers to their limits; `defaults` are used where a key sets none.

    A question whose gateway dies is counted for `longest_s` seconds.
    """

    def __init__(
        self, counters: Counters | None = None, defaults: Limits | None = None, longest_s: float = _DAY_S
    ) -> None:
        """Without arguments, it counts in memory and only enforces the limits that keys set."""
        self._counters, self._defaults = counters or MemoryCounters(), defaults or Limits()
        self._longest_s = longest_s
        self._mean_s = 1.0  # of the time of a question by a caller whose questions at once are limited

    async def request(self, caller: Caller) -> tuple[dict[str, str], TooMany | None]:
        """Counts a request. Returns the headers of its response, and the refusal if it is one too many."""
        limits = self._of(caller)
        told, refused = _Told(), None
        if most := limits.requests_per_minute:
            window = await self._counters.spend(f"{caller.id}:requests", 1, most, _MINUTE_S)
            told.window("requests", most, _MINUTE_S, window)
            if not window.spent:
                refused = TooMany(
                    "requests_per_minute", f"this key may send {most:,} requests a minute", window.seconds_left
                )
        if most := limits.tokens_per_day:
            window = await self._counters.spend(f"{caller.id}:tokens", 0, most, _DAY_S)
            told.window("tokens", most, _DAY_S, window)
        if most := limits.questions_at_once:
            told.places("questions", most)
        return told.headers(), refused

    @asynccontextmanager
    async def question(self, caller: Caller) -> AsyncIterator[None]:
        """Holds a place for a question while it is worked on.

        Raises TooMany if all places are taken or the day's tokens are used up. A question may end above the budget.
        """
        limits, started = self._of(caller), time.monotonic()
        if budget := limits.tokens_per_day:
            window = await self._counters.spend(f"{caller.id}:tokens", 0, budget, _DAY_S)
            if not window.spent:
                detail = f"this key may use {budget:,} tokens a day, and has used {window.used:,}"
                raise TooMany("tokens_per_day", detail, window.seconds_left)
        most, lease = limits.questions_at_once, ""
        if most:
            lease = secrets.token_hex(8)
            held, oldest_s = await self._counters.hold(f"{caller.id}:questions", lease, most, self._longest_s)
            if not held:
                detail = f"this key may have {most:,} questions worked on at once"
                raise TooMany("questions_at_once", detail, self._mean_s - oldest_s)
        try:
            yield
            if most:
                self._mean_s += _RECENT * (time.monotonic() - started - self._mean_s)
        finally:
            if most:
                await self._counters.release(f"{caller.id}:questions", lease)

    async def tokens(self, caller: Caller, count: int) -> None:
        """Counts tokens that models have read and written for the caller."""
        if self._of(caller).tokens_per_day and count:
            await self._counters.spend(f"{caller.id}:tokens", count, 0, _DAY_S)

    def _of(self, caller: Caller) -> Limits:
        return _over(caller.limits, self._defaults)


@lru_cache(_CALLERS)
def _over(limits: Limits, defaults: Limits) -> Limits:
    """Returns the limits, with defaults where none are set."""
    own = ((each.name, getattr(limits, each.name)) for each in fields(Limits))
    return Limits(**{name: getattr(defaults, name) if value is None else value for name, value in own})


class _Told:
    """The headers `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10)."""

    def __init__(self) -> None:
        self._policies: list[str] = []
        self._states: list[str] = []

    def window(self, name: str, most: int, length_s: int, window: Window) -> None:
        unit = "" if name == "requests" else f';qu="{name}"'
        self._policies.append(f'"{name}";q={most}{unit};w={length_s}')
        left = max(0, most - window.used)
        self._states.append(f'"{name}";r={left};t={math.ceil(window.seconds_left)}')

    def places(self, name: str, most: int) -> None:
        self._policies.append(f'"{name}";q={most};qu="concurrent-requests"')

    def headers(self) -> dict[str, str]:
        named = {"RateLimit-Policy": self._policies, "RateLimit": self._states}
        return {name: ", ".join(items) for name, items in named.items() if items}
