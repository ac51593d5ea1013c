"""Errors of the client. Each names the backend that failed and the kind of failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.problems import Problem
from search_agent.errors import Failure


class GatewayError(Problem):
    """The gateway was not reached, or did not do what it was asked.

    `backend` is "gateway" or the backend behind it that failed, and `failure` is the kind of failure.
    """

    def __init__(self, message: str, failure: Failure | str, backend: str = "gateway") -> None:
        super().__init__(message, failure, backend)  # pickle restores it from these
        self.message, self.failure, self.backend = message, failure, backend

    def __str__(self) -> str:
        return self.message


class Unreachable(GatewayError):
    """No connection, or no answer in time (`failure` is then Failure.TIMEOUT)."""


class UnexpectedAnswer(GatewayError):
    """The answer is not from one of our gateways, or was cut off."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Failure.BROKEN)
        self.args = (message,)


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field of the request, and what is wrong with it."""

    field: str
    message: str


class GatewayProblem(GatewayError):
    """The gateway answered with a problem (RFC 9457).

    `errors` names the fields that are wrong. `retry_after_s` is None if asking again is useless. `request_id` finds the
    request in the gateway's log.
    """

    def __init__(self, status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        """`body` is the gateway's problem, as far as it can be read."""
        detail, title = body.get("detail"), body.get("title")
        super().__init__(
            str(detail or title or f"status {status}"),
            str(body.get("failure") or f"status {status}"),
            str(body.get("backend") or "gateway"),
        )
        self.args = (status, body, retry_after_s)
        self.status = status
        self.request_id = str(body.get("request_id", ""))
        self.retry_after_s = retry_after_s
        errors = body.get("errors")
        self.errors = tuple(
            FieldError(str(each.get("field")), str(each.get("message")))
            for each in (errors if isinstance(errors, list) else ())
            if isinstance(each, dict)
        )
