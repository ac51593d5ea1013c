"""The table from failures to HTTP problems (RFC 9457)."""

from __future__ import annotations

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
_RETRY_AFTER_S = "2"
LEFT = 499  # as nginx records a caller who did not wait
CRASH = "the gateway failed; its log has the details"


class BadField(Exception):
    """A request's field is wrong in a way that its schema cannot express."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


class TooBusy(Exception):
    """The gateway is working on as many questions as it may."""


class CallerLeft(Exception):
    """The caller has closed the connection, and nobody reads the response."""


class NotConfigured(Exception):
    """The route needs a backend that is not configured."""


def problem(status: int, detail: str, **extra: Any) -> dict[str, Any]:
    """Returns the body of a problem; `extra` are its extension members."""
    title = HTTPStatus(status).phrase
    request_id = dict(context.metadata()).get(context.REQUEST_ID, "")
    return {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
        **extra,
    }


def of_failure(error: BoundaryError) -> dict[str, Any]:
    """Counts and logs a failed backend call. Returns its problem, which ends the request.

    The problem names the backend and, where the request is at fault, its field.
    """
    count_failure(error)
    log.warning(
        "backend failed", boundary=error.boundary, failure=error.failure, error=str(error), cause=str(error.__cause__)
    )
    extra: dict[str, Any] = {"backend": error.boundary, "failure": error.failure}
    if error.field:
        extra["errors"] = [{"field": error.field, "message": error.message}]
    return problem(HTTP_STATUS[error.failure], f"{error.boundary}: {error}", **extra)


def _response(body: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    retry = {"Retry-After": _RETRY_AFTER_S} if body["status"] == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return JSONResponse(body, body["status"], {**(headers or {}), **retry}, media_type="application/problem+json")


def _is_json(content_type: str) -> bool:
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def _fault(error: dict[str, Any]) -> dict[str, str]:
    if error["type"] == "json_invalid":  # its location is a place in the text
        return {"field": "body", "message": f"is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}"}
    return {"field": _field(error["loc"]), "message": error["msg"]}


def _field(location: tuple[int | str, ...]) -> str:
    """Returns a location as text: ("body", "queries", 1) gives "queries[1]"."""
    name = ""
    for part in location[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name or "body"


def install(app: FastAPI) -> None:
    """Turns every error of the application into a problem."""

    @app.exception_handler(BoundaryError)
    async def boundary(_: Request, error: BoundaryError) -> JSONResponse:
        return _response(of_failure(error))

    @app.exception_handler(BadField)
    async def field(_: Request, error: BadField) -> JSONResponse:
        fields = [{"field": error.field, "message": error.message}]
        return _response(problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=fields))

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        sent = request.headers.get("content-type", "")
        status, fields = HTTPStatus.UNPROCESSABLE_ENTITY, [_fault(e) for e in error.errors()]
        if sent and not _is_json(sent) and any(e["loc"] == ("body",) for e in error.errors()):
            status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            fields = [{"field": "content-type", "message": f"must be application/json, not {sent}"}]
        detail = "; ".join(f"{e['field']}: {e['message']}" for e in fields)
        return _response(problem(status, detail, errors=fields))

    @app.exception_handler(TooBusy)
    async def busy(_: Request, error: TooBusy) -> JSONResponse:
        return _response(problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))

    @app.exception_handler(NotConfigured)
    async def not_configured(_: Request, error: NotConfigured) -> JSONResponse:
        return _response(problem(HTTPStatus.NOT_FOUND, str(error)))

    @app.exception_handler(CallerLeft)
    async def left(_: Request, error: CallerLeft) -> Response:
        return Response(status_code=LEFT)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        return _response(problem(error.status_code, str(error.detail)), headers)

    @app.exception_handler(Exception)
    async def crash(_: Request, error: Exception) -> JSONResponse:
        return _response(problem(HTTPStatus.INTERNAL_SERVER_ERROR, CRASH))
