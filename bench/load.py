"""Sends a gateway requests that measure it under load: what was answered, what was refused, and how."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from common import http
from evaluation import questions as question_sets

QUESTIONS = str(Path(__file__).parent.parent / "data" / "demo" / "qa_dev.jsonl.gz")
TIMEOUT_HEADER = "x-request-timeout"
NO_RESPONSE = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request's end. `began` is in the seconds of time.monotonic; the status 0 means that no response came."""

    began: float
    seconds: float
    status: int
    body: dict[str, Any] = field(default_factory=dict)
    typed: bool = True
    retry_after_s: float | None = None

    @property
    def answered(self) -> bool:
        return self.status == httpx.codes.OK

    @property
    def said(self) -> str:
        """Returns the status, and of a problem the backend that failed and how."""
        if self.status == NO_RESPONSE:
            return f"no response ({self.body['error']})"
        return " ".join([str(self.status), *(self.body[each] for each in ("backend", "failure") if each in self.body)])


def questions(seed: int) -> list[str]:
    """Returns the demo's questions in an order that the seed chooses."""
    found = [question.text for question in question_sets.load(QUESTIONS)]
    random.Random(seed).shuffle(found)
    return found


def client(url: str) -> httpx.AsyncClient:
    """Returns a client with as many connections as are asked for."""
    return http.client(httpx.AsyncClient, url, base_url=url, limits=httpx.Limits(max_connections=None))


async def send(to: httpx.AsyncClient, path: str, body: Any = None, timeout_s: float = 300) -> Outcome:
    """Sends a request with a deadline, a GET if it has no body. The client waits five seconds beyond the deadline."""
    began = time.monotonic()
    method = "GET" if body is None else "POST"
    headers = {TIMEOUT_HEADER: f"{timeout_s:g}"}
    try:
        response = await to.request(method, path, json=body, headers=headers, timeout=timeout_s + 5)
    except httpx.HTTPError as error:
        return Outcome(began, time.monotonic() - began, NO_RESPONSE, {"error": type(error).__name__})
    return outcome(began, response)


def outcome(began: float, response: httpx.Response) -> Outcome:
    """Returns what a response that was read tells. A problem is typed if it is the project's JSON for that status."""
    seconds = time.monotonic() - began
    try:
        found = response.json()
    except ValueError:
        found = None
    body = found if isinstance(found, dict) else {}
    typed = response.is_success or (
        response.headers.get("content-type", "").startswith("application/problem+json")
        and body.get("status") == response.status_code
        and {"detail", "request_id"} <= body.keys()
    )
    wait = body.get("retry_after_s", response.headers.get("retry-after"))
    return Outcome(began, seconds, response.status_code, body, typed, None if wait is None else float(wait))


def quantile(values: Sequence[float], share: float) -> float | None:
    """Returns the value below which that share of the values lies, or None for none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else None
