"""Parts that OpenAI's protocols share: errors, citations, and the fields that a request may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

from search_agent.types import Passage, Trajectory
from services.gateway.methods import Methods
from services.gateway.problems import BadField, Problem, Refused, documented
from services.gateway.schemas import cited

Citations = Literal["annotations", "text"]
RESPONSES = documented(
    "application/json",
    {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                },
            }
        },
        "required": ["error"],
    },
)  # fmt: skip


def error_of(problem: Problem) -> dict[str, Any]:
    """Returns a problem as OpenAI's error."""
    status = HTTPStatus(problem.status)
    return {
        "message": problem.detail,
        "type": "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error",
        "param": problem.errors[0]["field"] if problem.errors else None,
        "code": problem.more.get("failure") or status.name.lower(),
    }


def _told(problem: Problem) -> Response:
    return JSONResponse({"error": error_of(problem)}, problem.status, problem.headers)


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape."""

    told_as = staticmethod(_told)


class UnknownModel(Refused):
    """There is no such model."""

    status = HTTPStatus.NOT_FOUND

    def problem(self) -> Problem:
        return Problem(self.status, f"model: {self}", [{"field": "model", "message": str(self)}])


def known(model: str, methods: Methods) -> str:
    """Returns the name of the model. Raises UnknownModel."""
    if model not in methods.names:
        raise UnknownModel(f"there is no model {model!r}; there are {', '.join(methods.names)}")
    return model


class OpenAIRequest(BaseModel):
    """A request of OpenAI's with fields of ours, which the `openai` package sends as `extra_body`.

    Fields in `without_effect` are accepted and not read. Fields in `refused` must be left out or have one of the listed
    values, because ignoring them would change the meaning of the answer.
    """

    model_config = ConfigDict(extra="forbid")
    without_effect: ClassVar[frozenset[str]]
    refused: ClassVar[Mapping[str, tuple[Any, ...]]]

    model: str = Field(description="a method, or a configuration of GATEWAY_CONFIGURATIONS")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name, neutral in cls.refused.items():
            if body.get(name) is not None and body[name] not in neutral:
                raise BadField(name, "is not supported; leave it out")
        return {name: value for name, value in body.items() if name not in cls.without_effect | cls.refused.keys()}


class QuestionRequest(OpenAIRequest):
    """A request that asks a question."""

    stream: StrictBool = False
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="parameters of the method, as GET /v1/methods shows them"
    )
    max_documents: Annotated[StrictInt, Field(ge=1, le=1000)] | None = Field(
        None, description="passage budget of the answer, as in /v1/answer"
    )
    citations: Citations | None = Field(
        None, description="text: citations are written under the answer too; left out: as GATEWAY_CITATIONS has it"
    )


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that is cited, and where in the text: from `start` to `end`, in characters."""

    passage: Passage
    start: int
    end: int

    @property
    def url(self) -> str:
        return url_of(self.passage)


def url_of(passage: Passage) -> str:
    """Returns the passage's id where that is a URL, else the id as the URI `passage:ID`."""
    id = passage.id
    return id if id.startswith(("http://", "https://")) else f"passage:{quote(id)}"


def with_citations(text: str, trajectory: Trajectory, how: Citations) -> tuple[str, list[Citation]]:
    """Returns what has to be added to the text, and the citations of both together.

    As annotations they cover the answer in the text, and nothing is added. As text they are numbers behind it, and a
    list of titles and ids under it.
    """
    passages = cited(trajectory)
    if how == "annotations" or not passages:
        answer = trajectory.answer or ""
        start = max(0, text.rfind(answer))
        return "", [Citation(passage, start, start + len(answer)) for passage in passages]
    added, citations = "" if text[-1:].isspace() else " ", []
    for number, passage in enumerate(passages, 1):
        start = len(text) + len(added)
        added += f"[{number}]"
        citations.append(Citation(passage, start, len(text) + len(added)))
    listed = (f"[{number}] {' '.join(each.title.split())} ({each.id})" for number, each in enumerate(passages, 1))
    return f"{added}\n\n" + "\n".join(listed), citations
