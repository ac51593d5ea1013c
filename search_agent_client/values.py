"""The gateway's answers as values. Fields have the names that REST gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.indexes import Change
from search_agent.types import FinishReason, IndexInfo, Passage, StopReason, Timings, Usage
from search_agent_client.decode import alias


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Passage):
    """A passage that was kept, and the number (from 1) of the turn that kept it."""

    turn: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One search, and what was kept of it.

    `retrieved` and `selected` are ids of passages, and `titles` names them. `error` says what was malformed.
    """

    query: str
    retrieved: tuple[str, ...]
    selected: tuple[str, ...]
    titles: Mapping[str, str]
    error: str


@dataclass(frozen=True, slots=True)
class Found:
    """The event after the last turn: the documents are settled. `cached` tells whether they were stored."""

    documents: tuple[Document, ...]
    cached: bool


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The passages that a method kept for a question.

    `id` is the request's, which the gateway's log has too. `timings_ms` are milliseconds. `models` lists the models
    that wrote something, and `indexes` the indexes that were searched, as "name@version". `truncated` says that a model
    read less of the passages than requested. `dropped` has the guard's reasons by id for the passages that it withheld
    from the models.
    """

    id: str
    method: str
    question: str
    documents: tuple[Document, ...]
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    usage: Usage
    timings_ms: Timings
    models: tuple[str, ...]
    truncated: bool
    indexes: tuple[str, ...]
    dropped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer(SearchResult):
    """`citations` are the ids of the documents that contain the answer word for word.

    `finish_reason` is `length` if the token limit cut the answer off. `cache_key` is the key of this result in the
    naive-RAG cache, empty if it is not there.
    """

    answer: str
    finish_reason: FinishReason
    citations: tuple[str, ...]
    cached: bool
    cache_key: str


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The passages of each query, best first. `index` is the one that was searched, as "name@version"."""

    results: tuple[tuple[Passage, ...], ...]
    index: str


@dataclass(frozen=True, slots=True)
class Method:
    """A method; `parameters` is their JSON Schema, with the values in force as defaults."""

    name: str
    summary: str
    parameters: Mapping[str, Any]

    @property
    def defaults(self) -> dict[str, Any]:
        """The values in force, by parameter."""
        return {name: entry.get("default") for name, entry in self.parameters.get("properties", {}).items()}


@dataclass(frozen=True, slots=True)
class Index(IndexInfo):
    """An index that the retriever serves.

    `changes` are those that are not done and the latest that are, the newest first.
    """

    is_default: bool = field(metadata=alias("default"), kw_only=True)
    changes: tuple[Change, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Deleted:
    """The name of an index that is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class CachedIndex:
    """Counts the naive-RAG results of one version of an index; `scored` ones were precomputed for training.

    `current` is false if the retriever no longer serves that version.
    """

    index: str
    version: str
    results: int
    scored: int
    current: bool


@dataclass(frozen=True, slots=True)
class Cache:
    """`lookups` counts hit, miss and unavailable since the gateway started."""

    indexes: tuple[CachedIndex, ...]
    lookups: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Cleared:
    """Counts the results that were removed from the cache."""

    removed: int


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much a key may use. 0 is no limit; None leaves the choice to the gateway's settings."""

    requests_per_minute: int | None
    questions_at_once: int | None
    tokens_per_day: int | None


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret. No `indexes` means every index; times are in RFC 3339."""

    id: str
    name: str
    scopes: tuple[str, ...]
    indexes: tuple[str, ...]
    created_at: str
    expires_at: str | None
    limits: KeyLimits


@dataclass(frozen=True, slots=True)
class NewKey(Key):
    """A key that was made. `key` is the secret, which is shown this once."""

    key: str = field(repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Revoked:
    """The id of a key that is refused from now on."""

    id: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """`backends` tells the state of each backend, "ok" or what is wrong."""

    status: str
    backends: Mapping[str, str]

    @property
    def ready(self) -> bool:
        return self.status == "ready"
