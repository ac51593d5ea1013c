"""Routes over the methods: search, answer, and what the methods are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request

from common import context
from search_agent.types import Event, Found, Piece, Turn
from services.gateway.asker import Ask, Asker
from services.gateway.player import Finished
from services.gateway.schemas import (
    AnswerRequest,
    AnswerResponse,
    FoundOut,
    MethodOut,
    SearchRequest,
    SearchResponse,
    TurnOut,
)
from services.gateway.streams import sse, streamed, unless_caller_leaves, with_events

_EVENTS = with_events("turn", "documents", "answer.delta", "done", "error")


def routes(asker: Asker) -> APIRouter:
    """Returns the routes."""
    router = APIRouter(prefix="/v1")

    @router.post("/search", tags=["questions"])
    async def search(body: SearchRequest, request: Request) -> SearchResponse:
        """Returns the passages that a method keeps for a question."""
        finished = await unless_caller_leaves(request, asker.ask(search_of(body)))
        return SearchResponse.of(context.request_id(), finished.trajectory)

    @router.post("/answer", tags=["questions"], response_model=AnswerResponse, responses=_EVENTS)
    async def answer(body: AnswerRequest, request: Request) -> Any:
        """Answers a question from the passages that a method keeps; `stream` returns Server-Sent Events."""
        ask = answer_of(body)
        if body.stream:
            return await streamed(request, _text(asker.events(ask)))
        return AnswerResponse.answered(context.request_id(), await unless_caller_leaves(request, asker.ask(ask)))

    @router.get("/methods", tags=["about"])
    async def list_methods() -> list[MethodOut]:
        """Returns methods and configurations, with their parameters as JSON Schema and the defaults in force."""
        return [
            MethodOut(name=name, summary=agent.summary, parameters=agent.schema())
            for name, agent in (await asker.methods.all()).items()
        ]

    return router


def search_of(body: SearchRequest) -> Ask:
    """Returns what a request for passages asks."""
    return _ask(body, with_answer=False)


def answer_of(body: AnswerRequest) -> Ask:
    """Returns what a request for an answer asks."""
    return _ask(body, options=body.options, instructions=body.instructions)


def _ask(body: SearchRequest, **more: Any) -> Ask:
    return Ask(body.question, body.method, body.values(), body.max_documents, place=body.place, **more)


async def _text(events: AsyncGenerator[Event | Finished, None]) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        async for event in events:
            yield sse(*_named(event))


def _named(event: Event | Finished) -> tuple[str, Any]:
    match event:
        case Turn():
            return "turn", TurnOut.model_validate(event)
        case Found():
            return "documents", FoundOut.model_validate(event)
        case Piece():
            return "answer.delta", {"text": event.text}
        case Finished():
            return "done", AnswerResponse.answered(context.request_id(), event)
