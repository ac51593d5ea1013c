"""Requests and responses of the REST API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from common.codecs import fields_of
from search_agent.filters import Filter
from search_agent.grading import answers
from search_agent.types import (
    QUESTION_CHARS,
    Document,
    FinishReason,
    Mode,
    Passage,
    Rankings,
    Retrieval,
    StopReason,
    Trajectory,
    Turn,
)
from services.gateway.player import Finished
from services.gateway.problems import BadField

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=QUESTION_CHARS)]


def _readable(query: Any) -> Any:
    """Cuts a query, and replaces halves of surrogate pairs, so that one bad query costs no other of its batch."""
    return query[:QUESTION_CHARS].encode(errors="replace").decode() if isinstance(query, str) else query


Query = Annotated[str, BeforeValidator(_readable)]
Name = Annotated[str, StringConstraints(max_length=200)]  # the bound also refuses halves of surrogate pairs


def _range(parameter: str) -> Any:
    """Returns the bounds and the meaning of a parameter of Retrieval."""
    about = _about(parameter)
    return Field(ge=about["minimum"], le=about["maximum"], description=about["help"])


def _about(parameter: str) -> Mapping[str, Any]:
    (about,) = (each.metadata for each in fields(Retrieval) if each.name == parameter)
    return about


Conditions = Annotated[
    Filter,
    PlainValidator(Filter.from_json),
    WithJsonSchema({"type": "object", "examples": [{"year": {"gte": 1990}, "lang": {"in": ["en", "de"]}}]}),
    Field(description=_about("filter")["help"]),
]


class Body(BaseModel):
    """A request that takes its own fields and no others."""

    model_config = ConfigDict(extra="forbid")


class SearchRequest(BaseModel):
    """A question for a method. Parameters that are left out take the method's defaults (GET /v1/methods).

    A parameter may also be given beside `question` instead of in `parameters`; null there means that it is left out.
    """

    model_config = ConfigDict(extra="allow")

    question: Text
    method: str = Field("s3", description="a method, or a configuration of GATEWAY_CONFIGURATIONS")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="parameters of the method, as GET /v1/methods shows them",
        examples=[{"top_k": 5, "mode": "hybrid"}],
    )
    max_documents: Annotated[StrictInt, Field(ge=1, le=1000)] | None = Field(
        None,
        description="passage budget: the generator reads at most that many of the passages kept, the first ones",
    )

    def values(self) -> dict[str, object]:
        """Returns the values of the method's parameters by name. Raises BadField for one that is given twice."""
        beside = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        if twice := beside.keys() & self.parameters.keys():
            raise BadField(min(twice), "is given in `parameters` too")
        return beside | self.parameters

    def place(self, parameter: str) -> str:
        """Returns where the request names the parameter."""
        return f"parameters.{parameter}" if parameter in self.parameters else parameter


class AnswerRequest(SearchRequest):
    """A question to answer. `stream` returns Server-Sent Events: turn, documents, answer.delta, done, error."""

    stream: StrictBool = False
    options: dict[Annotated[str, Field(pattern="^[A-Z]$")], Text] = Field(
        default_factory=dict,
        description="texts by letter, of which the generator chooses one; the search does not see them",
    )
    instructions: Annotated[str, StringConstraints(max_length=QUESTION_CHARS)] = Field(
        "", description="how the generator should answer, its system message; the search does not see it"
    )


class RetrieveRequest(Body):
    """Queries for plain retrieval, without an agent.

    An empty query finds nothing, and a long one is cut.
    """

    queries: Annotated[list[Query], Field(min_length=1)]
    top_k: Annotated[StrictInt, Field(ge=1, le=1000)] = 8
    index: Name = ""
    mode: Mode = Mode.AUTO
    rerank: Annotated[StrictInt, _range("rerank")] = 0
    filter: Conditions = Field(default_factory=Filter)

    def how(self) -> Retrieval:
        """Returns the search that is asked for."""
        return Retrieval(self.top_k, self.index, self.mode, self.rerank, self.filter)


class CompatibleRetrieveRequest(BaseModel):
    """A request in the protocol of s3, Search-R1 and verl's search tool."""

    queries: list[Query]
    topk: Annotated[StrictInt, Field(ge=1, le=1000)] | None = None
    return_scores: StrictBool = False
    filter: Conditions = Field(default_factory=Filter)


class Out(BaseModel):
    """A response, or a part of one, made from a value that has attributes of the same names."""

    model_config = ConfigDict(from_attributes=True)


class PassageOut(Out):
    id: str
    title: str
    text: str
    score: float
    metadata: dict[str, Any]


class DocumentOut(PassageOut):
    """A passage that was kept, and the number of the turn that kept it."""

    turn: int

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return fields_of(value.passage, turn=value.turn) if isinstance(value, Document) else value


class TurnOut(Out):
    """`retrieved` and `selected` are ids of passages, and `titles` names them. `error` says what was malformed.

    The selected ones are among the retrieved ones, or are a digest made from them.
    """

    query: str
    retrieved: list[str]
    selected: list[str]
    titles: dict[str, str]
    error: str

    @model_validator(mode="before")
    @classmethod
    def _by_id(cls, value: Any) -> Any:
        if not isinstance(value, Turn):
            return value
        shown = {name: [passage.id for passage in getattr(value, name)] for name in ("retrieved", "selected")}
        return fields_of(value, **shown, titles={each.id: each.title for each in (*value.retrieved, *value.selected)})


class UsageOut(Out):
    prompt_tokens: int
    completion_tokens: int
    searches: int
    rewritten: int


Milliseconds = Annotated[float, AfterValidator(lambda value: round(value, 2))]


class TimingsOut(Out):
    total: Milliseconds
    retrieve: Milliseconds
    search: Milliseconds
    generate: Milliseconds


class SearchResponse(Out):
    """`id` is the request's id, which the logs have too. `models` are those that wrote something, as "name@version".

    `indexes` are those that were searched, likewise. `truncated` says that a model read less of the passages than
    requested, because its context has no room for more. `dropped` has the guard's reasons by id for the passages that
    it withheld from the models.
    """

    id: str
    method: str
    question: str
    documents: list[DocumentOut]
    turns: list[TurnOut]
    stop_reason: StopReason
    usage: UsageOut
    timings_ms: TimingsOut = Field(validation_alias="timings")
    models: list[str]
    truncated: bool
    indexes: list[str]
    dropped: dict[str, str]

    @classmethod
    def of(cls, id: str, trajectory: Trajectory, **more: Any) -> Self:
        """Returns the response to the request with that id."""
        return cls.model_validate(fields_of(trajectory, id=id, **more))


class AnswerResponse(SearchResponse):
    """`citations` are the ids of the documents that contain the answer word for word.

    `finish_reason` is `length` if the token limit cut the answer off. `cache_key` is the key of this result in the
    naive-RAG cache, empty if it is not there.
    """

    answer: str
    finish_reason: FinishReason
    citations: list[str]
    cached: bool
    cache_key: str

    @classmethod
    def answered(cls, id: str, finished: Finished) -> Self:
        """Returns the response to the request with that id."""
        trajectory = finished.trajectory
        return cls.of(
            id,
            trajectory,
            answer=trajectory.answer or "",
            citations=[passage.id for passage in cited(trajectory)],
            cached=finished.cached,
            cache_key=finished.cache_key,
        )


def cited(trajectory: Trajectory) -> list[Passage]:
    """Returns the passages that contain the answer word for word."""
    answer = trajectory.answer or ""
    return [passage for passage in trajectory.passages if answers.span_match(passage.text, [answer])]


class FoundOut(Out):
    """The event `documents`: the documents are settled. `cached` tells whether they were stored."""

    documents: list[DocumentOut]
    cached: bool


class CachedIndexOut(Out):
    """Counts the naive-RAG results of one version of an index; `scored` ones were precomputed for training.

    `current` is false if the retriever no longer serves that version.
    """

    index: str
    version: str
    results: int
    scored: int
    current: bool


class CacheOut(Out):
    """`lookups` counts hit, miss and unavailable since the gateway started."""

    indexes: list[CachedIndexOut]
    lookups: dict[str, int]


class ClearedOut(Out):
    removed: int


class RetrieveResponse(Out):
    """`index` is the one that was searched, as "name@version"."""

    results: list[list[PassageOut]]
    index: str

    @classmethod
    def of(cls, ranked: Rankings) -> Self:
        """Returns the response with the rankings."""
        return cls.model_validate({"results": [*ranked], "index": ranked.served})


class MethodOut(Out):
    name: str
    summary: str
    parameters: dict[str, Any]
