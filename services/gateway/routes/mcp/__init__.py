"""The Model Context Protocol at /mcp, over streamable HTTP: the tools search, answer and retrieve."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from mcp.server import Server, ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams

from services.gateway import problems
from services.gateway.asker import Asker
from services.gateway.player import Backends
from services.gateway.problems import BadField
from services.gateway.routes.mcp.tools import Tools
from services.gateway.streams import with_events

_ABOUT = (
    "Finds passages in the indexes that this gateway serves. `search` lets a searcher model search in turns and keep "
    "the passages that answer a question; `answer` also answers from them; `retrieve` ranks passages for plain queries."
)

_ANY = {"content": {"application/json": {"schema": {"type": "object"}}}}
_BODY = {"required": True, **_ANY}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    **with_events(),
    HTTPStatus.ACCEPTED.value: {"description": "The message was a notification."},
    "4XX": {"content": problems.RESPONSES["4XX"]["content"] | _ANY["content"]},  # the protocol tells its own errors
}


def routes(asker: Asker, backends: Backends) -> APIRouter:
    """Returns the route."""
    router = APIRouter(tags=["mcp"])
    server = server_of(Tools(asker, backends))

    # POST alone: there is no session to open a stream for, or to end.
    @router.post("/mcp", response_class=JSONResponse, openapi_extra={"requestBody": _BODY}, responses=_RESPONSES)
    async def mcp(request: Request) -> Response:
        """Speaks the Model Context Protocol (streamable HTTP, stateless)."""
        if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
            raise BadField("body", "holds no message")
        return _Spoken(server)

    return router


def server_of(tools: Tools) -> Server[Any]:
    """Returns the protocol's server over the tools."""

    async def list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=await tools.all())

    async def call_tool(caller: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        async def tell(step: int, message: str) -> None:
            await caller.session.report_progress(step, message=message)

        return await tools.call(params.name, params.arguments or {}, tell)

    return Server(
        "search-agent",
        version="1",
        instructions=_ABOUT,
        get_tool_input_schema=lambda _: None,  # no argument travels as a header; else each call would list the tools
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


class _Spoken(Response):
    """Lets the protocol's library read and answer the request.

    Without sessions nothing outlives a request, so any replica may get the next one. Each request has its own manager,
    and whatever the request has started ends with it when the caller leaves.
    """

    def __init__(self, server: Server[Any]) -> None:
        super().__init__()
        self._server = server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        manager = StreamableHTTPSessionManager(self._server, stateless=True)
        try:
            async with manager.run():
                await manager.handle_request(scope, receive, send)
        except ExceptionGroup as group:  # its task group wraps what `receive` raises for a body that is refused
            raise group.exceptions[0] from None
