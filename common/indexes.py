"""The values of v1.Retriever's calls that change indexes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from search_agent.types import IndexInfo, Passage


@dataclass(frozen=True, slots=True)
class NewIndex:
    """An index to create. `encoder` is None for the default index's, and empty for none, which leaves only BM25."""

    name: str
    encoder: str | None = None
    kind: str = ""
    bm25: str = ""
    source: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Removal:
    """An edit that removes the passage with that id. The other edit is a Passage, which is added or replaced."""

    id: str


Edit = Passage | Removal


class ChangeState(StrEnum):
    WAITING = "waiting"  # for the build before it
    BUILDING = "building"
    DONE = "done"
    FAILED = "failed"  # its build failed, and is tried again


@dataclass(frozen=True, slots=True)
class Change:
    """Edits that were stored together, and their progress.

    Ids count from 1 in each index. `upserts` and `removals` count distinct ids. `phase` is the build's: read, encode,
    vectors, words or verify; `done` of `total` passages that are new to the encoder are encoded. `version` has the
    change, and is empty until it does. `error` tells why the latest build failed. Times are in seconds since 1970, 0.0
    for what has not happened.
    """

    index: str
    id: int
    state: ChangeState
    upserts: int = 0
    removals: int = 0
    phase: str = ""
    done: int = 0
    total: int = 0
    version: str = ""
    error: str = ""
    stored: float = 0.0
    started: float = 0.0
    finished: float = 0.0


class IndexEditor(Protocol):
    """Changes indexes. Every method raises RetrieverError."""

    async def create_index(self, new: NewIndex) -> IndexInfo:
        """Creates an empty index, and serves it."""
        ...

    async def delete_index(self, index: str) -> None: ...

    async def change_passages(self, index: str, edits: AsyncIterable[Edit]) -> Change:
        """Stores the edits as one change, or none of them; the last edit of an id wins."""
        ...

    async def changes(self, index: str) -> Sequence[Change]:
        """Returns the unfinished changes and the latest finished ones, newest first."""
        ...

    async def roll_back(self, index: str, version: str) -> IndexInfo:
        """Serves a kept version again."""
        ...
