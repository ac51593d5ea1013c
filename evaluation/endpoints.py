"""Settings of gateway, judge and scoring, which can travel to another process and open connections there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from common.http import client
from common.judge import JudgeEndpoint
from evaluation.gateway import Gateway
from evaluation.rows import Grader
from search_agent.grading.answers import Scoring
from search_agent_client import AsyncClient


@dataclass(frozen=True)
class Endpoints:
    """`url` and `api_key` are the gateway's; `timeout_s` limits each request. Without `judge_url` there is no judge.

    A question that the gateway is too busy for is asked again for up to `patience_s`.
    """

    url: str
    timeout_s: float
    api_key: str = field(default="", repr=False)
    judge_url: str = ""
    judge_model: str = ""
    judge_key: str = field(default="", repr=False)
    scoring: Scoring = Scoring.UNICODE
    patience_s: float = 600

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Gateway, Grader]]:
        """Opens the gateway's and the judge's connections."""
        async with (
            AsyncClient(self.url, self.api_key, self.timeout_s) as gateway,
            client(httpx.AsyncClient, self.judge_url, timeout=self.timeout_s) as http,
        ):
            judge = JudgeEndpoint(http, self.judge_url, self.judge_model, self.judge_key) if self.judge_url else None
            yield Gateway(gateway, self.patience_s), Grader(self.scoring, judge)
