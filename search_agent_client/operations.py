"""The calls of the REST API as requests. An argument that is left out takes the gateway's default."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from common.indexes import Change, Edit, Removal
from common.training import GateProgress, Promotion, Run, TrainingStep
from search_agent.types import Mode, Passage, Piece
from search_agent_client.requests import Request, Sent, Stream
from search_agent_client.values import (
    Answer,
    Cache,
    Cleared,
    Deleted,
    Found,
    Index,
    Key,
    Method,
    NewKey,
    Readiness,
    Retrieved,
    Revoked,
    SearchResult,
    Turn,
)

_BLOCK_BYTES = 64_000
ANSWER_EVENTS: Mapping[str, type] = {"turn": Turn, "documents": Found, "answer.delta": Piece, "done": Answer}


def search(
    question: str, method: str | None = None, max_documents: int | None = None, **parameters: Any
) -> Request[SearchResult]:
    """Returns the passages that a method keeps for a question; `parameters` are the method's."""
    body = {"question": question, "method": method, "max_documents": max_documents, "parameters": parameters}
    return Request(Sent("POST", "/v1/search", body), SearchResult)


def answer(
    question: str,
    method: str | None = None,
    max_documents: int | None = None,
    options: Mapping[str, str] | None = None,
    instructions: str | None = None,
    **parameters: Any,
) -> Request[Answer]:
    """Answers a question from the passages that a method keeps.

    `max_documents` is the passage budget, `options` (text by letter) make the question multiple choice, `instructions`
    tell the generator how to answer, and `parameters` are the method's, as in `top_k=3`.
    """
    body = {
        "question": question, "method": method, "max_documents": max_documents, "options": options,
        "instructions": instructions, "parameters": parameters,
    }  # fmt: skip
    return Request(Sent("POST", "/v1/answer", body), Answer)


def stream_answer(
    question: str,
    method: str | None = None,
    max_documents: int | None = None,
    options: Mapping[str, str] | None = None,
    instructions: str | None = None,
    **parameters: Any,
) -> Stream[Turn | Found | Piece | Answer]:
    """Answers a question as `answer` does, and yields each turn, then Found, the answer's pieces and the Answer."""
    sent = answer(question, method, max_documents, options, instructions, **parameters).sent
    return Stream(
        replace(sent, body={**(sent.body or {}), "stream": True}),
        ANSWER_EVENTS,
        lambda event: isinstance(event, Answer),
    )


def retrieve(
    queries: Sequence[str],
    top_k: int | None = None,
    index: str | None = None,
    mode: Mode | str | None = None,
    rerank: int | None = None,
    filter: Mapping[str, Any] | None = None,
) -> Request[Retrieved]:
    """Returns the best passages for each query, best first; `filter` holds conditions on their metadata."""
    body = {
        "queries": list(queries), "top_k": top_k, "index": index, "mode": mode, "rerank": rerank, "filter": filter,
    }  # fmt: skip
    return Request(Sent("POST", "/v1/retrieve", body), Retrieved)


def methods() -> Request[tuple[Method, ...]]:
    """Returns the methods, with their parameters and the defaults in force."""
    return Request(Sent("GET", "/v1/methods"), tuple[Method, ...])


def indexes() -> Request[tuple[Index, ...]]:
    """Returns the indexes that the retriever serves, with their versions and changes."""
    return Request(Sent("GET", "/v1/indexes"), tuple[Index, ...])


def index(name: str) -> Request[Index]:
    """Returns an index with its versions and changes."""
    return Request(Sent("GET", _of_index(name)), Index)


def create_index(
    name: str,
    encoder: str | None = None,
    kind: str | None = None,
    bm25: str | None = None,
    source: str | None = None,
    licence: str | None = None,
) -> Request[Index]:
    """Makes an index without passages. An empty `encoder` means none; left out, it is the default index's."""
    body = {"name": name, "encoder": encoder, "kind": kind, "bm25": bm25, "source": source, "licence": licence}
    return Request(Sent("POST", "/v1/indexes", body), Index)


def delete_index(name: str) -> Request[Deleted]:
    """Removes an index with all its versions."""
    return Request(Sent("DELETE", _of_index(name)), Deleted)


def change_passages(
    name: str, edits: Iterable[Edit | Mapping[str, Any]], wait_s: float | None = None
) -> Request[Change]:
    """Adds, replaces and removes passages by id: all of them, or none if one is wrong.

    `edits` are values of Passage and Removal, or objects as in a corpus. They are sent as they are produced. `wait_s`
    is the longest time in seconds to wait for the version that has the change.
    """
    return Request(_waiting("POST", _of_index(name, "/passages"), wait_s, _blocks(edits)), Change)


def index_change(name: str, change_id: int, wait_s: float | None = None) -> Request[Change]:
    """Returns the progress of a change, after waiting up to `wait_s` seconds for its end."""
    return Request(_waiting("GET", _of_index(name, f"/changes/{change_id}"), wait_s), Change)


def rollback_index(name: str, version: str) -> Request[Index]:
    """Serves a kept version again."""
    return Request(Sent("POST", _of_index(name, "/rollback"), {"version": version}), Index)


def _of_index(name: str, what: str = "") -> str:
    return f"/v1/indexes/{quote(name, safe='')}{what}"


def _waiting(method: str, path: str, wait_s: float | None, blocks: Iterator[bytes] | None = None) -> Sent:
    query = {} if wait_s is None else {"wait": f"{wait_s:g}"}
    return Sent(method, path, query=query, blocks=blocks, patience_s=wait_s or 0.0)


def _blocks(edits: Iterable[Edit | Mapping[str, Any]]) -> Iterator[bytes]:
    """Yields the edits as lines, many at a time."""
    block = bytearray()
    for edit in edits:
        block += _line(edit)
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _line(edit: Edit | Mapping[str, Any]) -> bytes:
    match edit:
        case Passage():
            told: Mapping[str, Any] = {
                "id": edit.id, "title": edit.title, "text": edit.text, "metadata": dict(edit.metadata),
            }  # fmt: skip
        case Removal():
            told = {"id": edit.id, "deleted": True}
        case _:
            told = edit
    return json.dumps(told, ensure_ascii=False).encode() + b"\n"


def cache() -> Request[Cache]:
    """Counts the cached naive-RAG results by index version."""
    return Request(Sent("GET", "/v1/cache"), Cache)


def clear_cache(index: str, version: str = "") -> Request[Cleared]:
    """Removes the cached results of an index, of one version or of all, precomputed ones too."""
    return Request(Sent("DELETE", "/v1/cache", query={"index": index, "version": version}), Cleared)


def runs() -> Request[tuple[Run, ...]]:
    """Returns all training runs, newest first."""
    return Request(Sent("GET", "/v1/runs"), tuple[Run, ...])


def run(run_id: str) -> Request[Run]:
    """Returns a run with its configuration."""
    return Request(Sent("GET", _of_run(run_id)), Run)


def start_run(config: str, overrides: Mapping[str, Any] | None = None) -> Request[Run]:
    """Starts a run. `config` is a configuration's name; `overrides` replace its dotted fields."""
    return Request(Sent("POST", "/v1/runs", {"config": config, "overrides": overrides}), Run)


def cancel_run(run_id: str) -> Request[Run]:
    """Asks the run to stop; it is cancelled once its process has ended."""
    return Request(Sent("POST", _of_run(run_id, "/cancel")), Run)


def resume_run(run_id: str) -> Request[Run]:
    """Continues an interrupted run from its newest checkpoint."""
    return Request(Sent("POST", _of_run(run_id, "/resume")), Run)


def watch_run(run_id: str) -> Stream[Run | TrainingStep]:
    """Yields the run's states and steps: all so far, then new ones until it has ended."""
    return Stream(
        Sent("GET", _of_run(run_id, "/events")),
        {"run": Run, "step": TrainingStep},
        lambda event: isinstance(event, Run) and event.state.ended,
        endless=True,
    )


def promote(run_id: str, checkpoint: int | None = None, searcher: str = "") -> Stream[GateProgress | Promotion]:
    """Puts a checkpoint in the searcher's place if it passes the gate; yields progress, then the Promotion.

    `checkpoint` defaults to the newest, `searcher` to the one of the run's method. Leaving early stops the gate, and
    the next call continues it.
    """
    return Stream(
        Sent("POST", _of_run(run_id, "/promote"), {"checkpoint": checkpoint, "searcher": searcher, "stream": True}),
        {"progress": GateProgress, "done": Promotion},
        lambda event: isinstance(event, Promotion),
        endless=True,
    )


def rollback(searcher: str = "") -> Request[Promotion]:
    """Restores what the searcher's latest promotion replaced."""
    return Request(Sent("POST", "/v1/rollback", {"searcher": searcher}), Promotion)


def keys() -> Request[tuple[Key, ...]]:
    """Returns the API keys, oldest first, without their secrets."""
    return Request(Sent("GET", "/v1/keys"), tuple[Key, ...])


def create_key(
    name: str,
    scopes: Sequence[str],
    indexes: Sequence[str] = (),
    days: int | None = None,
    limits: Mapping[str, int] | None = None,
) -> Request[NewKey]:
    """Makes an API key. Without `indexes` it may use every index, and without `days` it never expires."""
    body = {"name": name, "scopes": list(scopes), "indexes": list(indexes), "days": days, "limits": limits}
    return Request(Sent("POST", "/v1/keys", body), NewKey)


def revoke_key(key_id: str) -> Request[Revoked]:
    """Revokes an API key at once."""
    return Request(Sent("DELETE", f"/v1/keys/{quote(key_id, safe='')}"), Revoked)


def readiness() -> Request[Readiness]:
    """Checks the backends."""
    return Request(Sent("GET", "/readyz"), Readiness, also=frozenset({503}))


def _of_run(run_id: str, what: str = "") -> str:
    return f"/v1/runs/{quote(run_id, safe='')}{what}"
