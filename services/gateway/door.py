"""ASGI middleware before every route: checks a request's host, origin, key, limits and size before its body is read."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from common import addresses, context
from common.keys import KeyStore, id_of
from services.gateway import access, caller, problems
from services.gateway.access import Access
from services.gateway.caller import ANYBODY, Caller
from services.gateway.limits import Meter
from services.gateway.problems import TIMEOUT_HEADER, BadTimeout, Problem, Refused

log = structlog.get_logger()
_SAFE = ("GET", "HEAD", "OPTIONS")


class Unknown(Refused):
    """The request has no known key."""

    status = HTTPStatus.UNAUTHORIZED
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class WrongHost(Refused):
    """The request is for another host."""

    status = HTTPStatus.MISDIRECTED_REQUEST


class ForeignOrigin(Refused):
    """A page of another site sent the request."""

    status = HTTPStatus.FORBIDDEN


class WrongMedia(Refused):
    """The body is not declared as what the route takes."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE

    def problem(self) -> Problem:
        return Problem(self.status, f"content-type: {self}", [{"field": "content-type", "message": str(self)}])


class WrongVerb(Refused):
    """The path takes other HTTP methods only. A router would name those of its first route."""

    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, verbs: Sequence[str]) -> None:
        super().__init__(f"the path takes {', '.join(verbs)}")
        self.headers = {"Allow": ", ".join(verbs)}


@dataclass(frozen=True)
class Rules:
    """The rules that every request must follow. Without `keys` anybody is let in, but no page of another site.

    `hosts` are the names that requests may be for, with "*.example.org" for all subdomains, in addition to those that
    no foreign page can have: addresses, localhost and names without a dot. Without any, a gateway that requires keys
    accepts every name. `origins` are the sites whose pages may call the gateway, "*" for all.
    """

    keys: KeyStore | None = None
    meter: Meter = field(default_factory=Meter)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    body_bytes: int = 1_000_000
    records_bytes: int = 1_000_000_000
    body_timeout_s: float = 30
    time_limit_s: float = 300


class Door:
    """Lets in the requests that follow the rules, tells callers their limits, and turns a crash into a problem."""

    def __init__(self, app: Any, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route, allowed = access.find(scope["app"].routes, scope)
        if route:
            scope["route"] = route
        told: dict[str, str] = {}
        started = False

        async def telling_send(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(told)
            await send(message)

        try:
            if not route and (verbs := access.verbs(scope["app"].routes, scope)):
                raise WrongVerb(verbs)
            await self._let_in(Headers(scope=scope), scope["method"], allowed, told)
            await self._app(scope, self._bounded(receive, allowed), telling_send)
        except Exception as error:
            if started:
                raise
            problem = problems.of(error)
            if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                log.exception("request crashed")
            told_as: Callable[[Problem], Response] = getattr(route, "told_as", problems.as_problem)
            await told_as(problem)(scope, receive, telling_send)

    async def _let_in(self, headers: Headers, verb: str, allowed: Access, told: dict[str, str]) -> None:
        """Raises Refused or KeysError for a request that may not go on. Fills `told` with the limits' headers."""
        caller.set_current(ANYBODY)  # a pipelined request begins in the context of the one before
        context.begin_time(min(self._rules.time_limit_s if allowed.is_timed else math.inf, _asked_time(headers)))
        self._check_host(headers.get("host", ""))
        if verb not in _SAFE:
            self._check_origin(headers)
        if allowed.scopes:
            who = await self._caller(headers)
            if "x-no-shadow" in headers:
                who = replace(who, is_private=True)
            who.check_scope(allowed.scopes)
            caller.set_current(who)
            structlog.contextvars.bind_contextvars(caller=who.id)
            limits, refused = await self._rules.meter.request(who)
            told.update(limits)
            if refused:
                raise refused
        self._check_body(headers, allowed)

    async def _caller(self, headers: Headers) -> Caller:
        keys = self._rules.keys
        if keys is None:
            return ANYBODY
        kind, _, secret = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            secret = headers.get("x-api-key", "")
        secret = secret.strip()
        if not secret:
            raise Unknown("this route needs a key: send `Authorization: Bearer KEY` or `x-api-key: KEY`")
        key = await keys.get(id_of(secret))
        if not key or not key.is_opened_by(secret, datetime.now(UTC)):
            raise Unknown("the key is not known, was revoked or has expired")
        return Caller.of(key)

    def _check_host(self, sent: str) -> None:
        host, hosts = _name(sent), self._rules.hosts
        is_named = any(host == each or (each.startswith("*.") and host.endswith(each[1:])) for each in hosts)
        if not (is_named or addresses.is_unclaimable(host) or (self._rules.keys and not hosts)):
            raise WrongHost("the gateway does not answer under this name (GATEWAY_HOSTS)")

    def _check_origin(self, headers: Headers) -> None:
        """Refuses requests that a browser sends for a page of another site, unless CORS allows that site."""
        origin, site = headers.get("origin", ""), headers.get("sec-fetch-site", "")
        if not origin or "*" in self._rules.origins or origin in self._rules.origins:
            return
        is_own = site in ("same-origin", "none") if site else origin.partition("://")[2] == headers.get("host", "")
        if not is_own:
            raise ForeignOrigin("pages of other sites may not ask this gateway (GATEWAY_CORS_ORIGINS)")

    def _check_body(self, headers: Headers, allowed: Access) -> None:
        length = headers.get("content-length", "")
        if not length and "transfer-encoding" not in headers:
            return
        longest = self._longest(allowed)
        if length.isdecimal() and int(length) > longest:
            raise _too_large(longest)
        sent = headers.get("content-type", "")
        if length != "0" and not (_is_json(sent) or (allowed.takes_records and _is_json_lines(sent))):
            wanted = f"application/json{' or application/x-ndjson' * allowed.takes_records}"
            raise WrongMedia(f"must be {wanted}, not {sent[:100] or 'left out'}")

    def _longest(self, allowed: Access) -> int:
        return self._rules.records_bytes if allowed.takes_records else self._rules.body_bytes

    def _bounded(self, receive: Any, allowed: Access) -> Any:
        """Returns `receive`, which fails once the body is too long or has taken too long."""
        received, is_whole, longest = 0, False, self._longest(allowed)
        until = time.monotonic() + self._rules.body_timeout_s

        async def bounded() -> Any:
            nonlocal received, is_whole, until
            if is_whole:  # the next message tells that the caller has left
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time") from None
            received += len(message.get("body", b""))
            if received > longest:
                raise _too_large(longest)
            if allowed.takes_records:
                until = time.monotonic() + self._rules.body_timeout_s
            is_whole = not message.get("more_body", False)
            return message

        return bounded


def _asked_time(headers: Headers) -> float:
    """Returns the seconds that the caller will wait, or infinity if the request does not say."""
    sent = headers.get(TIMEOUT_HEADER, "")
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", sent or "1", re.ASCII):
        raise BadTimeout("must be a number of seconds")
    return float(sent or "inf")


def _too_large(longest: int) -> HTTPException:
    """Returns the error. FastAPI lets an HTTPException through while it reads a body."""
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is longer than {longest:,} bytes")


def _is_json(sent: str) -> bool:
    kind = _media(sent)
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _is_json_lines(sent: str) -> bool:
    return _media(sent) in ("application/x-ndjson", "application/jsonl")


def _media(sent: str) -> str:
    return sent.partition(";")[0].strip().lower()


def _name(host: str) -> str:
    """Returns the name in a Host header, without the port."""
    name, _, port = host.rpartition(":")
    is_name = not name or not port.isdecimal() or (":" in name and not name.endswith("]"))
    return addresses.bare(host if is_name else name).lower().rstrip(".")
