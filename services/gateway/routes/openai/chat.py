"""OpenAI's chat completions, and the list of models."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StrictBool, StrictInt
from starlette.convertors import PathConvertor, register_url_convertor

from common import context
from search_agent.types import Event, Piece, Trajectory
from services.gateway.asker import Ask, Asker
from services.gateway.player import Finished
from services.gateway.problems import Problem
from services.gateway.routes.openai import conversation
from services.gateway.routes.openai.shape import (
    RESPONSES,
    Citation,
    Citations,
    OpenAIRoute,
    QuestionRequest,
    error_of,
    known,
    with_citations,
)
from services.gateway.streams import sse, streamed, unless_caller_leaves, with_events

_END = "data: [DONE]\n\n"


class StreamOptions(BaseModel):
    include_usage: StrictBool = False


class ChatRequest(QuestionRequest):
    """A conversation whose last message is the question."""

    without_effect: ClassVar[frozenset[str]] = frozenset(
        {
            "frequency_penalty",
            "metadata",
            "parallel_tool_calls",
            "prediction",
            "presence_penalty",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "safety_identifier",
            "seed",
            "service_tier",
            "temperature",
            "top_p",
            "user",
            "verbosity",
        }
    )
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "audio": (),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "logit_bias": ({},),
        "logprobs": (False,),
        "modalities": (["text"],),
        "n": (1,),
        "response_format": ({"type": "text"},),
        "stop": ([], ""),
        "store": (False,),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
        "web_search_options": (),
    }

    messages: list[dict[str, Any]] = Field(
        min_length=1, description="system, user and assistant messages of text; the last one is the question"
    )
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="longest answer; GATEWAY_ANSWER_MAX_TOKENS bounds it too"
    )
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="another name of max_tokens"
    )

    def ask(self, asker: Asker) -> Ask:
        """Returns the question for the Asker. Raises BadField and UnknownModel."""
        said = {f"messages[{number}]": message for number, message in enumerate(self.messages)}
        talk = conversation.read(said, "messages")
        places = {"question": talk.place, "method": "model", "instructions": "messages"}
        return Ask(
            talk.question,
            known(self.model, asker.methods),
            self.parameters,
            self.max_documents,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            instructions=talk.instructions,
            history=talk.history,
            place=lambda name: places.get(name, f"parameters.{name}"),
        )


class _Text(PathConvertor):
    """Takes line breaks too, so that this route refuses a name that has some."""

    regex = r"[\s\S]*"


register_url_convertor("text", _Text())


def routes(asker: Asker, citations: Citations) -> APIRouter:
    """Returns the routes; `citations` is the default for requests that do not choose."""
    router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute, responses=RESPONSES)
    started = int(time.time())

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "search-agent"}

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """Returns the methods and configurations as OpenAI's models."""
        return {"object": "list", "data": [model(name) for name in asker.methods.names]}

    @router.get("/models/{name:text}")
    async def one_model(name: str) -> dict[str, Any]:
        """Returns a method or configuration as one of OpenAI's models."""
        return model(known(name, asker.methods))

    @router.post("/chat/completions", response_model=None, responses=with_events())
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        """Answers the last message as OpenAI's chat completions do; `stream` returns its chunks."""
        ask, how = body.ask(asker), body.citations or citations
        if not body.stream:
            return _completion(body.model, how, await unless_caller_leaves(request, asker.ask(ask)))
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await streamed(request, _chunks(body.model, how, usage, asker.events(ask)), _failed)

    return router


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{context.request_id()}", "object": kind, "created": int(time.time()), "model": model}


def _completion(model: str, how: Citations, finished: Finished) -> dict[str, Any]:
    trajectory = finished.trajectory
    answer = trajectory.answer or ""
    added, citations = with_citations(answer, trajectory, how)
    message = {"role": "assistant", "content": answer + added, "refusal": None, "annotations": _annotations(citations)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": trajectory.finish_reason}
    return _head("chat.completion", model) | {"choices": [choice], "usage": _usage(trajectory)}


async def _chunks(
    model: str, how: Citations, with_usage: bool, events: AsyncGenerator[Event | Finished, None]
) -> AsyncGenerator[str, None]:
    """Yields the chunks; the first one comes with the first event of the question."""
    head = _head("chat.completion.chunk", model) | ({"usage": None} if with_usage else {})

    def chunk(finish_reason: str | None = None, **delta: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return sse("", head | {"choices": [choice]})

    text, begun = "", False
    async with aclosing(events):
        async for event in events:
            if not begun:
                yield chunk(role="assistant", content="")
                begun = True
            if isinstance(event, Piece):
                text += event.text
                yield chunk(content=event.text)
            elif isinstance(event, Finished):
                added, citations = with_citations(text, event.trajectory, how)
                if citations:
                    yield chunk(content=added, annotations=_annotations(citations))
                yield chunk(event.trajectory.finish_reason)
                if with_usage:
                    yield sse("", head | {"choices": [], "usage": _usage(event.trajectory)})
    yield _END


def _failed(problem: Problem) -> str:
    return sse("", {"error": error_of(problem)})


def _annotations(citations: list[Citation]) -> list[dict[str, Any]]:
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": each.start,
                "end_index": each.end,
                "title": each.passage.title,
                "url": each.url,
                "passage_id": each.passage.id,
            },
        }
        for each in citations
    ]


def _usage(trajectory: Trajectory) -> dict[str, int]:
    read, written = trajectory.usage.prompt_tokens, trajectory.usage.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
