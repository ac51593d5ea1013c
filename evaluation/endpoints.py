"""Whom evaluation asks: settings that travel to another process, and the connections made of them there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from common.http import client
from common.judge import JudgeEndpoint
from evaluation.gateway import Gateway


@dataclass(frozen=True)
class Endpoints:
    """`url` is the gateway's, `timeout_s` is of one request; without `judge_url` there is no judge."""

    url: str
    timeout_s: float
    judge_url: str = ""
    judge_model: str = ""
    judge_key: str = field(default="", repr=False)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Gateway, JudgeEndpoint | None]]:
        """Opens the gateway's and the judge's connections."""
        async with (
            client(httpx.AsyncClient, self.url, base_url=self.url, timeout=self.timeout_s) as gateway,
            client(httpx.AsyncClient, self.judge_url, timeout=self.timeout_s) as http,
        ):
            judge = JudgeEndpoint(http, self.judge_url, self.judge_model, self.judge_key) if self.judge_url else None
            yield Gateway(gateway), judge
