"""The REST contract: what requests and responses look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from search_agent.grading import answers
from search_agent.types import QUESTION_CHARS, Document, Mode, Retrieval, Trajectory, Turn
from services.gateway.problems import BadField

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=QUESTION_CHARS)]


def _readable(query: Any) -> Any:
    """Cuts a query, and replaces halves of surrogate pairs, so that one bad query costs no other of its batch."""
    return query[:QUESTION_CHARS].encode(errors="replace").decode() if isinstance(query, str) else query


Query = Annotated[str, BeforeValidator(_readable)]


def _range(parameter: str) -> Any:
    """The bounds of a parameter of retrieval."""
    (about,) = (each.metadata for each in fields(Retrieval) if each.name == parameter)
    return Field(ge=about["minimum"], le=about["maximum"], description=about["help"])


class Body(BaseModel):
    """A request that has these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class SearchRequest(BaseModel):
    """A question for a method. Parameters that are left out take the method's defaults (GET /v1/methods).

    A parameter may also stand beside `question` instead of in `parameters`, and is left out if it is null there.
    """

    model_config = ConfigDict(extra="allow")

    question: Text
    method: str = "s3"
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="parameters of the method, as GET /v1/methods shows them",
        examples=[{"top_k": 5, "mode": "hybrid"}],
    )
    max_documents: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="passage budget of any method: the answer is read from that many of its passages, the first"
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
    """With `stream`, Server-Sent Events: turn, documents, answer.delta, done, error."""

    stream: bool = False
    options: dict[Annotated[str, Field(pattern="^[A-Z]$")], Text] = Field(
        default_factory=dict, description="text by letter; the search does not see them, the generator chooses one"
    )


class RetrieveRequest(Body):
    """Plain retrieval, without an agent. `rerank`: how many passages a cross-encoder ranks again, 0 for none.

    An empty query finds nothing, and a long one is cut.
    """

    queries: Annotated[list[Query], Field(min_length=1)]
    top_k: Annotated[int, Field(ge=1, le=1000)] = 8
    index: str = ""
    mode: Mode = Mode.AUTO
    rerank: Annotated[int, _range("rerank")] = 0


class CompatibleRetrieveRequest(BaseModel):
    """The HTTP protocol that s3, Search-R1 and verl's search tool speak."""

    queries: list[Query]
    topk: Annotated[int, Field(ge=1, le=1000)] | None = None
    return_scores: bool = False


class PassageOut(BaseModel):
    id: str
    title: str
    text: str
    score: float


class DocumentOut(PassageOut):
    turn: int


class TurnOut(BaseModel):
    """`retrieved` and `selected` are passage ids; `titles` names them. `error`: what was malformed.

    `selected` are of the retrieved ones, or a digest made from them.
    """

    query: str
    retrieved: list[str]
    selected: list[str]
    titles: dict[str, str]
    error: str

    @classmethod
    def of(cls, turn: Turn) -> TurnOut:
        return cls(
            query=turn.query,
            retrieved=[passage.id for passage in turn.retrieved],
            selected=[passage.id for passage in turn.selected],
            titles={passage.id: passage.title for passage in (*turn.retrieved, *turn.selected)},
            error=turn.error,
        )


class UsageOut(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    searches: int


class TimingsOut(BaseModel):
    total: float
    retrieve: float
    search: float
    generate: float


class SearchResponse(BaseModel):
    id: str
    method: str
    question: str
    documents: list[DocumentOut]
    turns: list[TurnOut]
    stop_reason: str
    usage: UsageOut
    timings_ms: TimingsOut
    models: list[str]

    @classmethod
    def of(cls, id: str, trajectory: Trajectory, **more: Any) -> SearchResponse:
        rounded = {f: round(getattr(trajectory.timings, f), 2) for f in TimingsOut.model_fields}
        return cls(
            id=id,
            method=trajectory.method,
            question=trajectory.question,
            documents=documents_of(trajectory.documents),
            turns=[TurnOut.of(turn) for turn in trajectory.turns],
            stop_reason=trajectory.stop_reason,
            usage=UsageOut(**{f: getattr(trajectory.usage, f) for f in UsageOut.model_fields}),
            timings_ms=TimingsOut(**rounded),
            models=list(trajectory.models),
            **more,
        )


class AnswerResponse(SearchResponse):
    """`citations` are the ids of the documents in which the answer's words are found as they stand.

    `cache_key` is the naive-RAG cache's key of this result, empty if it is not there.
    """

    answer: str
    citations: list[str]
    cached: bool
    cache_key: str

    @classmethod
    def answered(cls, id: str, trajectory: Trajectory, cached: bool, cache_key: str) -> SearchResponse:
        answer = trajectory.answer or ""
        cited = [p.id for p in trajectory.passages if answers.span_match(p.text, [answer])]
        return cls.of(id, trajectory, answer=answer, citations=cited, cached=cached, cache_key=cache_key)


class CachedIndexOut(BaseModel):
    """What the naive-RAG cache has of one version of an index; `scored` were precomputed for training.

    `current` is false where the retriever no longer serves that version.
    """

    index: str
    version: str
    results: int
    scored: int
    current: bool


class CacheOut(BaseModel):
    """`lookups` counts hit, miss and unavailable since the gateway started."""

    indexes: list[CachedIndexOut]
    lookups: dict[str, int]


class ClearedOut(BaseModel):
    removed: int


class RetrieveResponse(BaseModel):
    results: list[list[PassageOut]]


class MethodOut(BaseModel):
    name: str
    summary: str
    parameters: dict[str, Any]


class IndexOut(BaseModel):
    name: str
    version: str
    passages: int
    dim: int
    kind: str
    encoder: str
    modes: list[Mode]
    default: bool = Field(validation_alias="is_default")
    source: str
    licence: str
    reranker: str


def documents_of(documents: Sequence[Document]) -> list[DocumentOut]:
    """Returns the kept passages with the turn that kept each."""
    return [
        DocumentOut(id=p.id, title=p.title, text=p.text, score=p.score, turn=document.turn)
        for document in documents
        for p in (document.passage,)
    ]
