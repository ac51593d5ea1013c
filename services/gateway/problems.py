"""The table from failures to HTTP problems (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from common import context
from search_agent.errors import BoundaryError, Failure
from services.gateway.observed import count_failure

log = structlog.get_logger()

# The statuses of errors, and when each is given.
STATUSES = {
    HTTPStatus.UNPROCESSABLE_ENTITY: "the request is wrong; `errors` names the field, `body` if it is not JSON",
    HTTPStatus.UNAUTHORIZED: "there is no key, or it is not known, was revoked or has expired",
    HTTPStatus.FORBIDDEN: "the key lacks a scope (`missing_scope`) or an index (`missing_index`), or a page of "
    "another site sent the request",
    HTTPStatus.TOO_MANY_REQUESTS: "the key has reached its `limit`; `Retry-After` says when to try again",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is too long",
    HTTPStatus.REQUEST_TIMEOUT: "the body did not arrive in time",
    HTTPStatus.MISDIRECTED_REQUEST: "the gateway does not answer under this host name",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the body is not declared as JSON; send `content-type: application/json`",
    HTTPStatus.BAD_REQUEST: "the headers are too long or malformed, or the body is not UTF-8; for a body of "
    "passages, `line` and `errors` name the wrong line and its field",
    HTTPStatus.METHOD_NOT_ALLOWED: "the route does not take this HTTP method",
    HTTPStatus.NOT_FOUND: "the index, run, model or route does not exist, or the backend is not configured",
    HTTPStatus.SERVICE_UNAVAILABLE: "the gateway or a backend is overloaded or unreachable; `Retry-After` says when "
    "to try again",
    HTTPStatus.BAD_GATEWAY: "a backend sent a broken answer",
    HTTPStatus.GATEWAY_TIMEOUT: "a backend did not answer in time, or the request allows too little time",
    HTTPStatus.INTERNAL_SERVER_ERROR: "the gateway itself failed; its log has the details",
}
HTTP_STATUS = {
    Failure.INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    Failure.TOO_LONG: HTTPStatus.UNPROCESSABLE_ENTITY,
    Failure.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Failure.UNSUPPORTED: HTTPStatus.UNPROCESSABLE_ENTITY,
    Failure.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
    Failure.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Failure.TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    Failure.BROKEN: HTTPStatus.BAD_GATEWAY,
}
_TEXT, _STATUS = {"type": "string"}, {"type": "integer"}
_ERROR = {"type": "object", "properties": {"field": _TEXT, "message": _TEXT}}
_PROBLEM = {
    "type": "object",
    "properties": {
        "type": _TEXT, "title": _TEXT, "status": _STATUS, "detail": _TEXT, "request_id": _TEXT, "trace_id": _TEXT,
        "errors": {"type": "array", "items": _ERROR},
    },
    "required": ["type", "title", "status", "detail", "request_id", "trace_id"],
}  # fmt: skip


def documented(media: str, schema: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Returns OpenAPI's description of a route's errors, whose statuses docs/rest.md lists."""
    content = {media: {"schema": schema}}
    return {
        "4XX": {"description": "The request is refused.", "content": content},
        "5XX": {"description": "The gateway or a backend failed, or has no room.", "content": content},
    }


RESPONSES = documented("application/problem+json", _PROBLEM)
_RETRY_AFTER_S = "2"
TIMEOUT_HEADER = "x-request-timeout"
LEFT = 499  # as nginx records a caller who did not wait
_CRASH = "the gateway failed; its log has the details"


@dataclass(frozen=True)
class Problem:
    """An error, as every protocol reports it.

    `errors` are the wrong fields of the request, `more` are extension members.
    """

    status: int
    detail: str
    errors: Sequence[Mapping[str, str]] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Replaces halves of surrogate pairs, which a caller's text may hold and no response can."""
        object.__setattr__(self, "detail", _encodable(self.detail))
        told = [{name: _encodable(text) for name, text in error.items()} for error in self.errors]
        object.__setattr__(self, "errors", told)

    def body(self) -> dict[str, Any]:
        """Returns the problem as JSON."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": int(self.status),
            "detail": self.detail,
            "request_id": context.request_id(),
            "trace_id": context.trace_id(),
            **self.more,
            **({"errors": [*self.errors]} if self.errors else {}),
        }


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


class Refused(Exception):
    """The gateway itself refuses the request; a subclass sets the status and, if needed, `headers`."""

    status: HTTPStatus
    headers: Mapping[str, str] = {}

    def problem(self) -> Problem:
        return Problem(self.status, str(self), headers=self.headers)


class BadField(Refused):
    """A request's field is wrong in a way that its schema cannot express."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message

    def problem(self) -> Problem:
        return Problem(self.status, str(self), [{"field": self.field, "message": self.message}])


class TooBusy(Refused):
    """The gateway is working on as much as it can. There should be room again in `wait_s` seconds."""

    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, detail: str, wait_s: float) -> None:
        super().__init__(detail)
        self.wait_s = wait_s
        self.headers = {"Retry-After": str(max(1, math.ceil(wait_s)))}

    def problem(self) -> Problem:
        more = {"retry_after_s": math.ceil(self.wait_s * 1e3) / 1e3}  # the header has whole seconds
        return Problem(self.status, str(self), more=more, headers=self.headers)


class TooLittleTime(Refused):
    """The request could not be answered in the time that it has, even if there were nothing else to do."""

    status = HTTPStatus.GATEWAY_TIMEOUT


class BadTimeout(Refused):
    """The request's header `x-request-timeout` is no number of seconds."""

    status = HTTPStatus.BAD_REQUEST

    def problem(self) -> Problem:
        return Problem(self.status, f"{TIMEOUT_HEADER}: {self}", [{"field": TIMEOUT_HEADER, "message": str(self)}])


class NotConfigured(Refused):
    """The route needs a backend that is not configured."""

    status = HTTPStatus.NOT_FOUND


class CallerLeft(Exception):
    """The caller has closed the connection, and nobody reads the response."""


def of(error: Exception) -> Problem:
    """Returns the problem that ends the request; counts and logs it if a backend failed.

    It names the backend and, where the request is at fault, its field.
    """
    match error:
        case Refused():
            return error.problem()
        case BoundaryError():
            return _of_failure(error)
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            return Problem(error.status_code, str(error.detail), headers=error.headers or {})
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, _CRASH)


def _of_failure(error: BoundaryError) -> Problem:
    count_failure(error)
    log.warning("backend failed", boundary=error.boundary, failure=error.failure, error=str(error))
    log.debug("the cause", cause=str(error.__cause__))  # it holds addresses
    status = HTTP_STATUS[error.failure]
    return Problem(
        status,
        f"{error.boundary}: {error}",
        [{"field": error.field, "message": error.message}] if error.field else (),
        {"backend": error.boundary, "failure": error.failure},
        {"Retry-After": _RETRY_AFTER_S} if status == HTTPStatus.SERVICE_UNAVAILABLE else {},
    )


def _of_validation(error: RequestValidationError) -> Problem:
    errors = [_fault(each) for each in error.errors()]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in errors)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors)


def _fault(error: dict[str, Any]) -> dict[str, str]:
    if error["type"] == "json_invalid":  # its location is a place in the text
        return {"field": "body", "message": f"is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}"}
    return {"field": _field(error["loc"]), "message": error["msg"].removeprefix("Value error, ")}


def _field(location: tuple[int | str, ...]) -> str:
    """Returns a location as text: ("body", "queries", 1) gives "queries[1]"."""
    name = ""
    for part in location[1:]:
        if not (name and _is_type(part)):
            name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name or "body"


def _is_type(part: int | str) -> bool:
    """Returns whether a part of a location is not a field but the member of a union that was tried, or the key of a
    mapping.
    """
    return part in ("str", "constrained-str", "[key]") or str(part).startswith("list[")


def as_problem(problem: Problem) -> Response:
    """Returns the response that most routes give."""
    return JSONResponse(problem.body(), problem.status, problem.headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Turns the errors of routes into problems, in the shape that the route's `told_as` gives them."""

    async def tell(request: Request, error: Exception) -> Response:
        if isinstance(error, CallerLeft):
            return Response(status_code=LEFT)
        told_as: Callable[[Problem], Response] = getattr(request.scope.get("route"), "told_as", as_problem)
        return told_as(of(error))

    for kind in (Refused, BoundaryError, RequestValidationError, CallerLeft, HTTPException):
        app.add_exception_handler(kind, tell)
