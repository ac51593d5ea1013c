"""The tools: what each takes and returns, and how it is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, TextContent, Tool, ToolAnnotations
from pydantic import BaseModel, ValidationError

from common import context
from search_agent.agents import Agent
from search_agent.types import Found, Turn
from services.gateway import problems
from services.gateway.asker import Ask, Asker
from services.gateway.player import Backends, Finished
from services.gateway.routes.mcp import told
from services.gateway.routes.questions import answer_of, search_of
from services.gateway.schemas import AnswerRequest, RetrieveRequest, RetrieveResponse, SearchRequest

log = structlog.get_logger()

Tell = Callable[[int, str], Awaitable[None]]  # the number of a step, and what it did

_READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
_ELSEWHERE = ("parameters", "stream")  # parameters stand beside the question, and progress is the protocol's own


@dataclass(frozen=True)
class _Kind:
    """A tool. `use` returns the result as a value and as text for a model."""

    purpose: str
    takes: type[BaseModel]
    gives: type[BaseModel]
    use: Callable[[Any, Tell], Awaitable[tuple[BaseModel, str]]]


class Tools:
    """Asks as REST does, and reports each turn as progress."""

    def __init__(self, asker: Asker, backends: Backends) -> None:
        self._asker, self._backends = asker, backends
        self._kinds = {
            "search": _Kind(
                "Finds the passages that answer a question, and tells by which search each was kept.",
                SearchRequest,
                told.SearchOut,
                self._search,
            ),
            "answer": _Kind(
                "Answers a question from the passages that a search keeps, and cites them.",
                AnswerRequest,
                told.AnswerOut,
                self._answer,
            ),
            "retrieve": _Kind(
                "Returns the best passages for each query, best first, without a searcher.",
                RetrieveRequest,
                RetrieveResponse,
                self._retrieve,
            ),
        }

    async def all(self) -> list[Tool]:
        """Returns the tools, with the methods' parameters as they are served now."""
        agents = await self._asker.methods.all()
        return [
            Tool(
                name=name,
                description=kind.purpose,
                input_schema=_schema(kind.takes, agents),
                output_schema=kind.gives.model_json_schema(mode="serialization"),
                annotations=_READS,
            )
            for name, kind in self._kinds.items()
        ]

    async def call(self, name: str, arguments: Mapping[str, Any], tell: Tell) -> CallToolResult:
        """Calls a tool. A failure is a result with the problem that REST would give. Raises MCPError for no tool."""
        if name not in self._kinds:
            raise MCPError(INVALID_PARAMS, f"no tool is called {name!r}; there are {', '.join(self._kinds)}")
        kind = self._kinds[name]
        try:
            value, text = await kind.use(_read(kind.takes, arguments), tell)
        except Exception as error:
            problem = problems.of(error)
            if problem.status == 500:
                log.exception("tool crashed", tool=name)
            return _result(problem.detail, problem.body(), is_error=True)
        return _result(text, value.model_dump(mode="json"))

    async def _search(self, body: SearchRequest, tell: Tell) -> tuple[BaseModel, str]:
        finished = await self._finished(search_of(body), tell)
        found = told.SearchOut.of(context.request_id(), finished.trajectory)
        return found, told.search(found)

    async def _answer(self, body: AnswerRequest, tell: Tell) -> tuple[BaseModel, str]:
        answered = told.AnswerOut.answered(context.request_id(), await self._finished(answer_of(body), tell))
        return answered, told.answer(answered)

    async def _retrieve(self, body: RetrieveRequest, tell: Tell) -> tuple[BaseModel, str]:
        ranked = RetrieveResponse.of(await self._backends.retriever.search(body.queries, body.how()))
        return ranked, told.retrieve(body.queries, ranked)

    async def _finished(self, ask: Ask, tell: Tell) -> Finished:
        turns = 0
        async with aclosing(self._asker.events(ask)) as events:
            async for event in events:
                match event:
                    case Turn():
                        turns += 1
                        await tell(turns, told.turn(event))
                    case Found():
                        await tell(turns + 1, f"{told.counted(len(event.documents), 'passage')} kept")
                    case Finished():
                        return event
        raise AssertionError("a question ends in Finished or in an error")


def _read(kind: type[BaseModel], arguments: Mapping[str, Any]) -> BaseModel:
    try:
        return kind.model_validate(arguments)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None


def _result(text: str, value: Mapping[str, Any], is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)], structured_content=value, is_error=is_error)


def _schema(kind: type[BaseModel], agents: Mapping[str, Agent]) -> dict[str, Any]:
    """Returns the JSON Schema of a request; one that names a method also takes the parameters of the methods."""
    whole = kind.model_json_schema()
    properties = {
        name: _inlined(entry, whole.get("$defs", {}))
        for name, entry in whole["properties"].items()
        if name not in _ELSEWHERE
    }
    if "method" in properties:
        purposes = "; ".join(f"{name}: {agent.summary}" for name, agent in agents.items())
        properties["method"] |= {"enum": [*agents], "description": purposes}
        properties |= _parameters(agents)
    required = whole["required"]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _inlined(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a property without references, which not every client follows, and without a title."""
    found = definitions.get(entry.get("$ref", "").rpartition("/")[2], {}) | entry
    return {key: value for key, value in found.items() if key not in ("$ref", "title")}


def _parameters(agents: Mapping[str, Agent]) -> dict[str, Any]:
    """Returns the schema of all methods' parameters.

    Where the methods differ, it says so in words or leaves the detail out.
    """
    having: dict[str, dict[str, Any]] = {}
    for method, agent in agents.items():
        properties: Any = agent.schema()["properties"]
        for name, entry in properties.items():
            having.setdefault(name, {})[method] = entry
    found = {}
    for name, by_method in having.items():
        first, *others = by_method.values()
        meanings: dict[str, list[str]] = {}
        for method, entry in by_method.items():
            meanings.setdefault(entry["description"], []).append(method)
        found[name] = {
            **{key: value for key, value in first.items() if all(other.get(key) == value for other in others)},
            "description": "; ".join(f"{meaning} ({', '.join(methods)})" for meaning, methods in meanings.items()),
        }
    return found
