"""Routes over the indexes: what is served, and how it changes while it is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from starlette.requests import ClientDisconnect

from common.codecs import fields_of
from common.indexes import Change, ChangeState, Edit, NewIndex
from common.passages import BadPassage, read_edit
from common.records import BrokenFile, Records
from search_agent.errors import Failure, RetrieverError
from search_agent.types import IndexInfo, Mode
from search_agent.world import index_named
from services.gateway.player import Backends, Retrieving
from services.gateway.problems import BadField, CallerLeft, Problem, Refused
from services.gateway.schemas import Body, Name, Out
from services.gateway.streams import unless_caller_leaves

_RECORD_BYTES = 1_000_000
_LOOK_AGAIN_S = 0.25  # while a change is waited for
_UNDER_WAY = (ChangeState.WAITING, ChangeState.BUILDING)
_LINES = """{"id": "w1", "title": "Warsaw Pact", "text": "It was signed in 1955.", "metadata": {"year": 1955}}
{"id": "w2", "deleted": true}
"""

Wait = Annotated[
    float, Query(ge=0, le=600, description="seconds to wait for the version that has the change, or for its failure")
]


class BadLine(Refused):
    """A line of a body is not a passage. `field` is at fault, empty if the line is not a JSON object."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, line: int, field: str, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line, self.field, self.message = line, field, message

    def problem(self) -> Problem:
        errors = [{"field": self.field or "body", "message": self.message}]
        return Problem(self.status, str(self), errors, {"line": self.line})


class IndexRequest(Body):
    """A new index without passages. The retriever chooses the fields that are left out."""

    name: Name = Field(examples=["mine"])
    encoder: Name | None = Field(
        None, description="an encoder that the retriever knows; empty: none, BM25 alone; left out: the default index's"
    )
    kind: Name = Field("", description="how vectors are stored (docs/data.md)")
    bm25: Name = Field("", description="bm25s, lucene or none")
    source: Name = Field("", description="where the passages come from")
    licence: Name = Field("", description="their licence")


class RollBackRequest(Body):
    """`version` is one of the index's `versions`."""

    version: Name


class VersionOut(Out):
    """A version that is kept; `built` is in seconds since 1970."""

    version: str
    passages: int
    built: float


class ChangeOut(Out):
    """Edits that were accepted together, and their progress.

    `upserts` and `removals` count distinct ids. While it is being built, `phase` is read, encode, vectors, words or
    verify, and `done` of `total` new passages are encoded. `version` is the version with the change, empty until there
    is one. `error` says why the latest build failed. Times are in seconds since 1970, 0 for events that have not
    happened.
    """

    index: str
    id: int
    state: ChangeState
    upserts: int
    removals: int
    phase: str
    done: int
    total: int
    version: str
    error: str
    stored: float
    started: float
    finished: float


class IndexOut(Out):
    """An index that is served. `keys` are those of its passages' metadata.

    `fault` tells why its server failed last, or why its changes cannot be told.

    One that is `writable` takes changes, and can be rolled back to its `versions`, the newest first. `changes` are
    those that are not done and the latest that are, the newest first.
    """

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
    keys: list[str]
    writable: bool
    versions: list[VersionOut]
    fault: str
    changes: list[ChangeOut]


class DeletedOut(Out):
    name: str


def routes(backends: Backends) -> APIRouter:
    """Returns the routes."""
    router = APIRouter(prefix="/v1/indexes", tags=["indexes"])

    async def shown(indexes: Iterable[IndexInfo]) -> list[IndexOut]:
        async def one(index: IndexInfo) -> IndexOut:
            changes, fault = await told(index)
            return IndexOut.model_validate(fields_of(index, changes=changes, fault=fault))

        return [*await asyncio.gather(*map(one, indexes))]

    async def told(index: IndexInfo) -> tuple[Sequence[Change], str]:
        """Returns the changes of an index and its fault. A faulty index does not hide the others."""
        try:
            return await backends.retriever.changes(index.name) if index.writable else (), index.fault
        except RetrieverError as error:
            if not error.field:  # the retriever failed, and not this index
                raise
            return (), error.message

    @router.get("")
    async def list_indexes() -> list[IndexOut]:
        """Returns the indexes that the retriever serves, with their versions and changes."""
        return await shown(await backends.retriever.indexes())

    @router.get("/{name}")
    async def get_index(name: str) -> IndexOut:
        """Returns an index with its versions and changes."""
        (found,) = await shown([index_named(await backends.retriever.indexes(), name)])
        return found

    @router.post("", status_code=HTTPStatus.CREATED)
    async def create(body: IndexRequest, request: Request, response: Response) -> IndexOut:
        """Makes an index without passages, and serves it."""
        made = await backends.retriever.create_index(NewIndex(**body.model_dump()))
        response.headers["Location"] = _place(request, made.name)
        (found,) = await shown([made])
        return found

    @router.delete("/{name}")
    async def delete(name: str) -> DeletedOut:
        """Removes an index with all its versions."""
        await backends.retriever.delete_index(name)
        return DeletedOut(name=name)

    @router.post(
        "/{name}/passages",
        status_code=HTTPStatus.ACCEPTED,
        openapi_extra={"requestBody": _body()},
        responses={
            HTTPStatus.OK.value: {"model": ChangeOut, "description": "`wait` was long enough: the change is done"}
        },
    )
    async def change(name: str, request: Request, response: Response, wait: Wait = 0) -> ChangeOut:
        """Adds, replaces and removes passages by id: the whole body, or nothing if one line is wrong.

        The body is JSON lines (`application/x-ndjson`) or a JSON array, and is read as it arrives. A version with the
        change is built while the old one answers; sending the same body again changes nothing.
        """
        accepted = await backends.retriever.change_passages(name, _edits(request))
        response.headers["Location"] = _place(request, name, "changes", str(accepted.id))
        found = await unless_caller_leaves(request, _awaited(backends.retriever, accepted, wait))
        if found.state is ChangeState.DONE:
            response.status_code = HTTPStatus.OK
        return ChangeOut.model_validate(found)

    @router.get("/{name}/changes/{id}")
    async def get_change(name: str, id: int, request: Request, wait: Wait = 0) -> ChangeOut:
        """Returns the progress of a change."""
        for each in await backends.retriever.changes(name):
            if each.id == id:
                found = await unless_caller_leaves(request, _awaited(backends.retriever, each, wait))
                return ChangeOut.model_validate(found)
        raise RetrieverError(Failure.NOT_FOUND, f"index {name!r} has no change {id}, or no longer knows it", "id")

    @router.post("/{name}/rollback")
    async def roll_back(name: str, body: RollBackRequest) -> IndexOut:
        """Serves a kept version again."""
        (found,) = await shown([await backends.retriever.roll_back(name, body.version)])
        return found

    return router


def _place(request: Request, *parts: str) -> str:
    return "/".join([request.scope.get("root_path", ""), "v1/indexes", *parts])


def _body() -> dict[str, Any]:
    """Returns OpenAPI's description of a body of passages."""
    passage = {
        "title": "Passage",
        "type": "object",
        "required": ["id"],
        "properties": {
            "id": {"type": "string"},
            "title": {"type": "string"},
            "text": {"type": "string"},
            "metadata": {"type": "object", "description": "strings, numbers, booleans and lists of strings by key"},
            "deleted": {"type": "boolean", "description": "removes the passage; only the id is needed then"},
        },
    }
    return {
        "required": True,
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "one passage per line"},
                "example": _LINES,
            },
            "application/json": {"schema": {"type": "array", "items": passage}},
        },
    }


async def _edits(request: Request) -> AsyncIterator[Edit]:
    """Yields the edits of a body as it arrives. Raises BadLine, BadField for a body without edits, CallerLeft."""
    records, any_yet = Records(_RECORD_BYTES, key="passages"), False
    try:
        async for chunk in request.stream():
            for line, record in records.feed(chunk) if chunk else records.end():
                yield _edit(line, record)
                any_yet = True
    except BrokenFile as error:
        raise BadLine(error.line, "", str(error)) from None
    except ClientDisconnect:
        raise CallerLeft from None
    if not any_yet:
        raise BadField("body", "holds no passage")


def _edit(line: int, record: bytes) -> Edit:
    try:
        return read_edit(record)
    except BadPassage as error:
        raise BadLine(line, error.field, str(error)) from None


async def _awaited(retriever: Retrieving, change: Change, seconds: float) -> Change:
    """Returns the change once it is done or has failed, or as it is when the time is up."""
    until = time.monotonic() + seconds
    while change.state in _UNDER_WAY and (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(_LOOK_AGAIN_S, left))
        found = {each.id: each for each in await retriever.changes(change.index)}
        change = found.get(change.id, change)
    return change
