"""Who may use which route: the one table, which a test compares with the application's routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.routing import BaseRoute, Match

from common.keys import Scope


@dataclass(frozen=True, slots=True)
class Access:
    """The keys that open a route: those with one of `scopes`, and those with `admin`. Without scopes it needs no key.

    A route that is not `is_timed` may take longer than a question. The body of one that `takes_records` may be JSON
    lines, has a limit of its own, and may take long as long as it keeps coming.
    """

    scopes: tuple[Scope, ...]
    is_timed: bool = True
    takes_records: bool = False


_OPEN = Access(())
_ADMIN = Access((Scope.ADMIN,))
_ASKING = Access((Scope.ASK, Scope.EVALUATE))
_EVERY_KEY = Access(tuple(Scope))
_INDEXING = Access((Scope.INDEX,))
_TRAINING = Access((Scope.TRAIN,))

# By verb and path, as the routers declare them. A mounted application is "* /path".
ACCESS: Mapping[str, Access] = {
    "POST /v1/search": _ASKING,
    "POST /v1/answer": _ASKING,
    "POST /v1/retrieve": _ASKING,
    "POST /retrieve": _ASKING,
    "POST /v1/chat/completions": _ASKING,
    "POST /v1/responses": _ASKING,
    "POST /v1/embeddings": _ASKING,
    "POST /mcp": _ASKING,
    "GET /v1/models": _EVERY_KEY,
    "GET /v1/models/{name:text}": _EVERY_KEY,
    "GET /v1/methods": _EVERY_KEY,
    "GET /v1/indexes": _EVERY_KEY,
    "GET /v1/indexes/{name}": _EVERY_KEY,
    "GET /v1/indexes/{name}/changes/{id}": Access(tuple(Scope), is_timed=False),
    "POST /v1/indexes": _INDEXING,
    "DELETE /v1/indexes/{name}": _INDEXING,
    "POST /v1/indexes/{name}/passages": Access((Scope.INDEX,), is_timed=False, takes_records=True),
    "POST /v1/indexes/{name}/rollback": _INDEXING,
    "GET /v1/cache": Access((Scope.EVALUATE, Scope.TRAIN)),
    "DELETE /v1/cache": _ADMIN,
    "POST /v1/runs": _TRAINING,
    "GET /v1/runs": _TRAINING,
    "GET /v1/runs/{id}": _TRAINING,
    "POST /v1/runs/{id}/cancel": _TRAINING,
    "POST /v1/runs/{id}/resume": _TRAINING,
    "GET /v1/runs/{id}/events": Access((Scope.TRAIN,), is_timed=False),
    "POST /v1/runs/{id}/promote": Access((Scope.ADMIN,), is_timed=False),  # changes what everybody is answered by
    "POST /v1/rollback": _ADMIN,
    "POST /v1/keys": _ADMIN,
    "GET /v1/keys": _ADMIN,
    "DELETE /v1/keys/{id}": _ADMIN,
    # The pages hold nothing of the stack's; their requests bring the key that the reader types in.
    "GET /": _OPEN,
    "GET /static/{name}": _OPEN,
    "GET /docs": _OPEN,
    "GET /openapi.json": _OPEN,
    # Health and metrics hold no text, no address and no name of a key.
    "GET /healthz": _OPEN,
    "GET /readyz": _OPEN,
    "GET /metrics": _OPEN,
}


def leaves(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Yields the routes, and for a router that was included its own."""
    for route in routes:
        router: Any = getattr(route, "original_router", None)
        if router:
            yield from leaves(router.routes)
        else:
            yield route


def names(route: BaseRoute) -> list[str]:
    """Returns the names that the route has in the table, one a verb."""
    path, verbs = getattr(route, "path", ""), getattr(route, "methods", None) or {"*"}
    return [f"{verb} {path}" for verb in sorted(verbs - {"HEAD"})]


def verbs(routes: Iterable[BaseRoute], scope: Mapping[str, Any]) -> list[str]:
    """Returns the verbs that the request's path takes, in order; none if it has no route."""
    matching = (route for route in leaves(routes) if route.matches(dict(scope))[0] is not Match.NONE)
    return sorted({verb for route in matching for verb in getattr(route, "methods", None) or ()})


def find(routes: Iterable[BaseRoute], scope: Mapping[str, Any]) -> tuple[BaseRoute | None, Access]:
    """Returns the route of a request and who may use it. What has no route, or no such verb, is answered to anybody.

    A route that the table lacks is for `admin` alone.
    """
    for route in leaves(routes):
        match, _ = route.matches(dict(scope))
        if match is Match.FULL:
            verb = scope["method"] if getattr(route, "methods", None) else "*"
            return route, ACCESS.get(f"{verb} {getattr(route, 'path', '')}", _ADMIN)
    return None, _OPEN
