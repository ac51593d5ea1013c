"""Changes the indexes of a writable folder: makes and deletes them, takes changes, and goes back to a version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from common.indexes import Change, Edit, NewIndex, Removal
from common.passages import BadPassage, read_metadata
from common.problems import Problem
from search_agent.errors import Failure, RetrieverError
from search_agent.types import IndexInfo
from services.retriever import bm25, folders, kinds
from services.retriever import manifest as manifests
from services.retriever.builder import Builder
from services.retriever.errors import BuildRefused
from services.retriever.manifest import Manifest
from services.retriever.served_folders import ServedFolders
from services.retriever.settings import RetrieverSettings


class Keeper:
    """The IndexEditor port over the writable folder."""

    def __init__(self, served: ServedFolders, settings: RetrieverSettings) -> None:
        self.served, self.builder = served, Builder(served)
        self._shelf, self._settings = served.shelf, settings
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to build what waits, and to watch."""
        self._tasks = [asyncio.create_task(self.builder.run()), asyncio.create_task(self.served.watch())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def create_index(self, new: NewIndex) -> IndexInfo:
        if self.served.root is None:
            raise RetrieverError(Failure.UNSUPPORTED, "RETRIEVER_WRITABLE names no folder for new indexes", "name")
        if new.name in self._shelf:
            raise RetrieverError(Failure.INVALID, f"there is already an index {new.name!r}", "name")
        try:
            with _on_disk():
                return await asyncio.to_thread(self._create, self.served.root, new)
        except BuildRefused as problem:
            raise RetrieverError(Failure.INVALID, str(problem).replace("--name ", ""), "name") from problem
        except Problem as problem:
            raise RetrieverError(Failure.UNSUPPORTED, str(problem), "encoder") from problem

    def _create(self, root: Path, new: NewIndex) -> IndexInfo:
        try:
            kind, backend = kinds.named(new.kind or kinds.FLAT.name), bm25.chosen(new.bm25)
        except ValueError as error:
            field = "kind" if new.kind not in ("", *kinds.KINDS) else "bm25"
            raise RetrieverError(Failure.INVALID, str(error), field) from None
        if not kind.exact:
            raise RetrieverError(Failure.INVALID, f"{kind.name} does not keep vectors as changes need them", "kind")
        encoding = self._encoding(new.encoder)
        if not encoding.encoder and backend is bm25.NONE:
            raise RetrieverError(Failure.INVALID, "without an encoder, BM25 is all there is", "bm25")
        encoder = self.served.encoders.get(encoding) if encoding.encoder else None
        made = replace(
            encoding, name=new.name, dim=encoder.dim if encoder else 0, count=0, source=new.source,
            licence=new.licence, kind=kind.name, parameters=kind.parameters(0, encoder.dim) if encoder else {},
            bm25=backend.name, bm25_parameters=backend.parameters,
            encoder_parameters=encoder.parameters if encoder else {},
        )  # fmt: skip
        with folders.new_index(root, new.name, force=False) as work:
            folders.seal(work, made, "")
        return self.served.add(new.name)

    def _encoding(self, name: str | None) -> Manifest:
        """Returns a manifest with the encoder that a request names.

        Raises RetrieverError if the request may not name it.
        """
        mades = [served.index.manifest for served in self._shelf if served.index]
        if name is None:
            default = self._shelf.named("").index if any(each.info.is_default for each in self._shelf) else None
            name = default.manifest.encoder if default else next(iter(self._settings.encoders), "")
        for made in mades:
            if made.encoder == name:
                return Manifest("", made.encoder, 0, 0, encoder_parameters=made.encoder_parameters)
        if name and name not in self._settings.encoders:
            raise RetrieverError(Failure.INVALID, f"no index has {name!r}, nor does RETRIEVER_ENCODERS", "encoder")
        return Manifest("", name, 0, 0)

    async def delete_index(self, index: str) -> None:
        name = self._need(index)
        with _on_disk():
            await asyncio.to_thread(self.served.delete, name)

    async def change_passages(self, index: str, edits: AsyncIterable[Edit]) -> Change:
        name, limits = self._need(index), self._settings
        served = self._shelf.named(name).index
        if served and not kinds.KINDS[served.manifest.kind].exact:
            reason = f"index {name!r} is of kind {served.manifest.kind}, which does not keep the vectors"
            raise RetrieverError(Failure.UNSUPPORTED, reason, "index")
        changes = self.served.changes_of(name)
        with _on_disk():
            draft = changes.draft()
            try:
                number = 0
                async for edit in edits:
                    number += 1
                    if number > limits.max_edits:
                        raise RetrieverError(Failure.INVALID, f"a change has at most {limits.max_edits} edits", "edits")
                    draft.add(_checked(edit, number, limits.max_passage_chars))
                if not number:
                    raise RetrieverError(Failure.INVALID, "no edits", "edits")
                change = await asyncio.to_thread(draft.commit)
            finally:
                draft.close()
        changes.fault = ""
        self.builder.wake()
        return change

    async def changes(self, index: str) -> Sequence[Change]:
        name = self._need(index)
        with _on_disk():
            return await asyncio.to_thread(self.builder.changes, name)

    async def roll_back(self, index: str, version: str) -> IndexInfo:
        name = self._need(index)

        def swap() -> IndexInfo:
            with self.served.swapping:
                kept = folders.versions_of(self.served.folder(name)) / version
                if not manifests.NAME.fullmatch(version) or not kept.is_dir():
                    raise RetrieverError(Failure.NOT_FOUND, f"version {version!r} is not kept", "version")
                return self.served.put_in_place(name, kept, self.served.open(kept))

        try:
            with _on_disk():
                return await asyncio.to_thread(swap)
        except Problem as problem:
            raise RetrieverError(Failure.BROKEN, f"version {version!r} cannot be opened", "version") from problem

    def _need(self, index: str) -> str:
        """Returns the name of an index that may be changed. Raises RetrieverError."""
        name = self._shelf.named(index).info.name
        if not self.served.writable(name):
            raise RetrieverError(Failure.UNSUPPORTED, f"index {name!r} is read-only", "index")
        return name


def _checked(edit: Edit, number: int, longest: int) -> Edit:
    """Returns the edit with metadata as it is stored. Raises RetrieverError, which names the edit."""

    def refuse(field: str, reason: str) -> RetrieverError:
        return RetrieverError(Failure.INVALID, f"edit {number}: {reason}", field)

    if not edit.id.strip():
        raise refuse("id", "the id is empty")
    if isinstance(edit, Removal):
        return edit
    if not edit.text.strip():
        raise refuse("text", "the text is empty")
    if len(edit.id) + len(edit.title) + len(edit.text) > longest:
        raise refuse("text", f"the passage is longer than {longest} characters")
    try:
        return replace(edit, score=0.0, metadata=read_metadata(dict(edit.metadata)))
    except BadPassage as bad:
        raise refuse(bad.field, str(bad)) from None


@contextmanager
def _on_disk() -> Iterator[None]:
    """Raises RetrieverError for errors of the disk. They concern this index; other indexes are still searched."""
    try:
        yield
    except OSError as error:
        raise RetrieverError(Failure.UNAVAILABLE, f"the disk: {error.strerror or error}", "index") from error
