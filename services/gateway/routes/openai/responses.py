"""OpenAI's responses: the searches are items of the output, and so is the answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from itertools import count
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, Field, StrictInt

from common import context
from search_agent.types import Event, FinishReason, Passage, Piece, Trajectory, Turn
from services.gateway.asker import Ask, Asker
from services.gateway.player import Finished
from services.gateway.problems import Problem
from services.gateway.routes.openai import conversation
from services.gateway.routes.openai.shape import (
    RESPONSES,
    Citations,
    OpenAIRoute,
    QuestionRequest,
    known,
    url_of,
    with_citations,
)
from services.gateway.streams import sse, streamed, unless_caller_leaves, with_events

_RESULTS = "file_search_call.results"
_LOGPROBS = "message.output_text.logprobs"


def _without_logprobs(include: list[str]) -> list[str]:
    if _LOGPROBS in include:
        raise ValueError(f"{_LOGPROBS} is not supported")
    return include


class TextFormat(BaseModel):
    type: Literal["text"] = "text"


class TextConfig(BaseModel):
    format: TextFormat | None = None


class ResponsesRequest(QuestionRequest):
    """A question, or a conversation whose last message is the question."""

    without_effect: ClassVar[frozenset[str]] = frozenset(
        {
            "metadata",
            "parallel_tool_calls",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning",
            "safety_identifier",
            "service_tier",
            "stream_options",
            "temperature",
            "top_p",
            "truncation",
            "user",
        }
    )
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "background": (False,),
        "context_management": ([],),
        "conversation": (),
        "max_tool_calls": (),
        "previous_response_id": (),
        "prompt": (),
        "store": (False,),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
    }

    input: str | list[dict[str, Any]] = Field(
        description="the question, or messages of text and earlier output; the last message is the question"
    )
    instructions: str | None = Field(None, description="the system message")
    max_output_tokens: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="longest answer; GATEWAY_ANSWER_MAX_TOKENS bounds it too"
    )
    include: Annotated[list[str], AfterValidator(_without_logprobs)] | None = Field(
        None, description=f"{_RESULTS}: the passages of each search; other values have no effect"
    )
    text: TextConfig | None = Field(None, description="its format can be text only")

    def ask(self, asker: Asker) -> Ask:
        """Returns the question for the Asker. Raises BadField and UnknownModel."""
        if isinstance(self.input, str):
            talk = conversation.alone(self.input, "input", self.instructions or "")
        else:
            said = {f"input[{number}]": item for number, item in enumerate(self.input) if not _ours(item)}
            talk = conversation.read(said, "input", self.instructions or "")
        places = {"question": talk.place, "method": "model"}
        return Ask(
            talk.question,
            known(self.model, asker.methods),
            self.parameters,
            self.max_documents,
            max_tokens=self.max_output_tokens,
            instructions=talk.instructions,
            history=talk.history,
            place=lambda name: places.get(name, name if name == "instructions" else f"parameters.{name}"),
        )


def _ours(item: Mapping[str, Any]) -> bool:
    """Returns whether the item is a search of an earlier answer, which is no message."""
    return item.get("type") == "file_search_call"


def routes(asker: Asker, citations: Citations) -> APIRouter:
    """Returns the route; `citations` is the default for requests that do not choose."""
    router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute, responses=RESPONSES)

    @router.post("/responses", response_model=None, responses=with_events())
    async def responses(body: ResponsesRequest, request: Request) -> Any:
        """Answers as OpenAI's responses do, with the searches as tool calls; `stream` returns its events."""
        events = asker.events(body.ask(asker))
        told = _Told(body, body.citations or citations)
        if body.stream:
            return await streamed(request, _text(told.events(events)), lambda problem: _sse(told.failed(problem)))
        return await unless_caller_leaves(request, _last(told.events(_whole(events))))

    return router


class _Told:
    """Turns a question's events into those of a response, numbered from 0."""

    def __init__(self, body: ResponsesRequest, citations: Citations) -> None:
        self._body, self._citations = body, citations
        self._id, self._at = context.request_id(), int(time.time())
        self._numbers = count()
        self._output: list[dict[str, Any]] = []  # of items that are done
        self._text: list[str] = []

    async def events(self, events: AsyncGenerator[Event | Finished, None]) -> AsyncGenerator[dict[str, Any], None]:
        """Yields the response's events; the last one has the whole response."""
        begun = False
        async with aclosing(events):
            async for event in events:
                if not begun:
                    yield self._event("response.created", response=self._response("in_progress"))
                    yield self._event("response.in_progress", response=self._response("in_progress"))
                    begun = True
                for told in self._told(event):
                    yield told

    def failed(self, problem: Problem) -> dict[str, Any]:
        """Returns the event that ends a response that has begun."""
        code = "server_error" if problem.status >= 500 else "invalid_prompt"
        error = {"code": code, "message": problem.detail}
        return self._event("response.failed", response=self._response("failed", error=error))

    def _told(self, event: Event | Finished) -> Iterator[dict[str, Any]]:
        match event:
            case Turn(query=query) if query:
                yield from self._search(event)
            case Piece():
                yield from self._piece(event.text)
            case Finished():
                if not self._text:
                    yield from self._piece(event.trajectory.answer or "")
                yield from self._end(event.trajectory)

    def _search(self, turn: Turn) -> Iterator[dict[str, Any]]:
        at, id = len(self._output), f"fs_{self._id}_{len(self._output)}"
        item: dict[str, Any] = {"id": id, "type": "file_search_call", "queries": [turn.query], "results": None}
        yield self._event("response.output_item.added", output_index=at, item=item | {"status": "in_progress"})
        for step in ("in_progress", "searching", "completed"):
            yield self._event(f"response.file_search_call.{step}", output_index=at, item_id=id)
        if _RESULTS in (self._body.include or ()):
            kept = {passage.id for passage in turn.selected}
            item["results"] = [_result(passage, passage.id in kept) for passage in turn.retrieved]
        self._output.append(item | {"status": "completed"})
        yield self._event("response.output_item.done", output_index=at, item=self._output[-1])

    def _piece(self, text: str) -> Iterator[dict[str, Any]]:
        if not self._text:
            yield self._event(
                "response.output_item.added", output_index=len(self._output), item=self._message("in_progress")
            )
            yield self._of_part("content_part.added", part=_part(""))
        self._text.append(text)
        yield self._of_part("output_text.delta", delta=text, logprobs=[])

    def _end(self, trajectory: Trajectory) -> Iterator[dict[str, Any]]:
        added, citations = with_citations("".join(self._text), trajectory, self._citations)
        if added:
            yield from self._piece(added)
        part = _part("".join(self._text))
        yield self._of_part("output_text.done", text=part["text"], logprobs=[])
        for number, each in enumerate(citations):
            annotation = {
                "type": "url_citation",
                "start_index": each.start,
                "end_index": each.end,
                "title": each.passage.title,
                "url": each.url,
                "passage_id": each.passage.id,
            }
            part["annotations"].append(annotation)
            yield self._of_part("output_text.annotation.added", annotation_index=number, annotation=annotation)
        yield self._of_part("content_part.done", part=part)
        status = "incomplete" if trajectory.finish_reason is FinishReason.LENGTH else "completed"
        message = self._message(status, part)
        yield self._event("response.output_item.done", output_index=len(self._output), item=message)
        self._output.append(message)
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        response = self._response(status, incomplete_details=details, usage=_usage(trajectory))
        yield self._event(f"response.{status}", response=response)

    def _event(self, type: str, **fields: Any) -> dict[str, Any]:
        return {"type": type, "sequence_number": next(self._numbers), **fields}

    def _of_part(self, type: str, **fields: Any) -> dict[str, Any]:
        place = {"item_id": f"msg_{self._id}", "output_index": len(self._output), "content_index": 0}
        return self._event(f"response.{type}", **place, **fields)

    def _message(self, status: str, *content: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"msg_{self._id}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [*content],
        }

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._at,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": self._body.instructions,
            "max_output_tokens": self._body.max_output_tokens,
            "model": self._body.model,
            "output": [*self._output],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
            **more,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _result(passage: Passage, kept: bool) -> dict[str, Any]:
    return {
        "file_id": passage.id,
        "filename": passage.title,
        "score": passage.score,
        "text": passage.text,
        "attributes": {"kept": kept, "url": url_of(passage)},
    }


def _usage(trajectory: Trajectory) -> dict[str, Any]:
    read, written = trajectory.usage.prompt_tokens, trajectory.usage.completion_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


def _sse(event: dict[str, Any]) -> str:
    return sse(event["type"], event)


async def _text(events: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        async for event in events:
            yield _sse(event)


async def _whole(events: AsyncGenerator[Event | Finished, None]) -> AsyncGenerator[Event | Finished, None]:
    """Leaves the answer's pieces out, so that its text is the answer alone."""
    async with aclosing(events):
        async for event in events:
            if not isinstance(event, Piece):
                yield event


async def _last(events: AsyncGenerator[dict[str, Any], None]) -> Any:
    """Waits for the last event, and returns its response."""
    async with aclosing(events):
        async for event in events:
            last = event
    return last["response"]
