"""The page at `/` and the API's documentation, from static files and without another host."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.staticfiles import StaticFiles

_OURS = (
    "default-src 'none'; connect-src 'self'; img-src 'self'{pictures}; script-src 'self'; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_POLICIES = {
    "index.html": _OURS.format(pictures="") + "; require-trusted-types-for 'script'",
    "docs.html": _OURS.format(pictures=" data:"),  # Swagger UI's
}


def routes() -> APIRouter:
    """Returns the routes of the pages. What they name is relative, so that they work behind a prefix too."""
    router = APIRouter(include_in_schema=False)
    # fastapi_offline ships Swagger UI's files.
    files = StaticFiles(directory=Path(__file__).parents[1] / "static", packages=[("fastapi_offline", "static")])

    async def response(name: str, request: Request) -> Response:
        found = await files.get_response(name, request.scope)
        found.headers["Cache-Control"] = "no-cache"  # asks each time; the ETag spares the transfer
        found.headers["X-Content-Type-Options"] = "nosniff"
        found.headers["Referrer-Policy"] = "no-referrer"
        if name in _POLICIES:
            found.headers["Content-Security-Policy"] = _POLICIES[name]
        return found

    @router.get("/")
    async def page(request: Request) -> Response:
        return await response("index.html", request)

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        return await response("docs.html", request)

    @router.get("/static/{name}")
    async def static(name: str, request: Request) -> Response:
        return await response(name, request)

    return router
