"""Keeps the indexes of a writable folder: takes changes, builds them, swaps versions, and watches the disk."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncIterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from common import metrics
from common.indexes import Change, ChangeState, Edit, NewIndex, Removal
from common.passages import BadPassage, read_metadata
from common.problems import Problem
from search_agent.errors import Failure, RetrieverError
from search_agent.types import IndexInfo
from services.retriever import bm25, folders, kinds
from services.retriever import manifest as manifests
from services.retriever.changes import Changes
from services.retriever.encoders import Encoders
from services.retriever.errors import BuildRefused, IndexRefused
from services.retriever.gpu import Device
from services.retriever.index import Index
from services.retriever.manifest import Manifest
from services.retriever.rebuild import Progress, rebuild
from services.retriever.settings import RetrieverSettings
from services.retriever.shelf import Served, Shelf
from services.retriever.sources import Source
from services.retriever.sources.config import SOURCE

log = structlog.get_logger()
_BUILT, _FAILED = "built", "failed"  # outcomes of a build
_LOOK_S = 2.0  # between two looks at the folders, and before a failed build is tried again


@dataclass(frozen=True, slots=True)
class _Seen:
    """A folder as it was opened last, or could not be: the file that describes it, its state, and the index's name."""

    file: str
    state: tuple[int, ...]
    name: str


class Keeper:
    """The IndexEditor port over a folder, and the watch over all folders that are served."""

    def __init__(
        self, shelf: Shelf, encoders: Encoders, settings: RetrieverSettings, gpus: Sequence[Device] = ()
    ) -> None:
        self._shelf, self._encoders, self._settings, self._gpus = shelf, encoders, settings, gpus
        self._root = settings.writable.resolve() if settings.writable else None
        self._seen: dict[Path, _Seen] = {}
        self._swapping = threading.RLock()
        self._building: dict[str, Change] = {}
        self._progress = Progress()
        self._failed: dict[str, str] = {}
        self._changes: dict[str, Changes] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        for outcome in (_BUILT, _FAILED):  # so that Prometheus sees the first of each as a growth
            metrics.RETRIEVER_BUILD_SECONDS.labels(outcome)

    def start(self) -> None:
        """Begins to build what waits, and to watch."""
        self._tasks = [asyncio.create_task(self._build_all()), asyncio.create_task(self._watch())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def recover(self) -> None:
        """Restores what a killed process left under another name, and removes what it left unfinished."""
        for old in self._root.glob("*.old") if self._root else ():
            folders.undo_half_replacement(old.with_suffix(""))
        for gone in self._root.glob("*.gone") if self._root else ():
            shutil.rmtree(gone, ignore_errors=True)
        for changes in self._root.glob("*.changes") if self._root else ():
            Changes(changes, changes.stem).recover()

    def look(self) -> None:
        """Serves indexes that are new or replaced on disk, and no longer removed ones. Logs what cannot be opened."""
        roots = {root for root in (self._settings.indexes.resolve(), self._root) if root}
        with self._swapping:
            for folder in filter(_is_gone, [*self._seen]):
                time.sleep(0.1)  # between another program's two renames there is none either
                if _is_gone(folder):
                    name = self._seen.pop(folder).name
                    self._forget(name)
                    log.info("index gone", index=name)
        for root in sorted(roots):
            for folder in folders.candidates(root) if root.is_dir() else ():
                self._refresh(folder)
        with self._swapping:
            for served in self._shelf:
                self._shelf.put(replace(served, info=self._with_versions(served.info)))

    def note(self, folder: Path, name: str) -> None:
        """Remembers that the index in the folder has been opened."""
        self._seen[folder.parent.resolve() / folder.name] = replace(_seen(folder), name=name)

    def _refresh(self, folder: Path) -> None:
        try:
            with self._swapping:
                before, found = self._seen.get(folder), _seen(folder)
                if before == (found := replace(found, name=before.name if before else folder.name)):
                    return
                self._seen[folder] = found
                opened = Source(folder) if found.file == SOURCE else self._open(folder)
                if any(each.name == opened.name and path != folder for path, each in self._seen.items()):
                    raise IndexRefused(folder, f"a second index called {opened.name!r}")
                self._seen[folder] = replace(found, name=opened.name)
                self.serve(opened)
        except FileNotFoundError:
            return
        except (Problem, OSError) as problem:
            log.error("index not opened, what was served stays", index=folder.name, error=str(problem))

    def _open(self, folder: Path) -> Index:
        return Index(folder, self._settings.verify_checksums, self._gpus)

    def serve(self, opened: Index | Source) -> IndexInfo:
        """Serves an index that has been noted, in place of the one of its name. Raises EncoderUnavailable.

        Searches in progress keep the previous one, which is closed with the last of them.
        """
        info = self._with_versions(opened.info)
        if isinstance(opened, Source):
            served = Served(info, source=opened)
        else:
            served = Served(info, opened, self._encoders.of(opened.manifest))
        info = self._shelf.put(served).info
        log.info(
            "index opened", index=info.name, version=info.version, passages=info.passages, kind=info.kind,
            encoder=info.encoder, modes=[mode.value for mode in info.modes], default=info.is_default,
        )  # fmt: skip
        return info

    def _forget(self, name: str) -> None:
        """Stops serving an index. A build of it that is in progress then ends without effect."""
        self._shelf.drop(name)
        self._changes.pop(name, None)
        self._failed.pop(name, None)

    def _with_versions(self, info: IndexInfo) -> IndexInfo:
        """Returns the description of an index, with what its folder keeps. Reads the disk."""
        if not self._writable(info.name):
            return info
        return replace(info, writable=True, versions=folders.versions(self._folder(info.name)))

    async def create_index(self, new: NewIndex) -> IndexInfo:
        root = self._root
        if root is None:
            raise RetrieverError(Failure.UNSUPPORTED, "RETRIEVER_WRITABLE names no folder for new indexes", "name")
        if new.name in self._shelf:
            raise RetrieverError(Failure.INVALID, f"there is already an index {new.name!r}", "name")
        try:
            with _on_disk():
                return await asyncio.to_thread(self._create, root, new)
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
        encoder = self._encoders.get(encoding) if encoding.encoder else None
        made = replace(
            encoding, name=new.name, dim=encoder.dim if encoder else 0, count=0, source=new.source,
            licence=new.licence, kind=kind.name, parameters=kind.parameters(0, encoder.dim) if encoder else {},
            bm25=backend.name, bm25_parameters=backend.parameters,
            encoder_parameters=encoder.parameters if encoder else {},
        )  # fmt: skip
        with folders.new_index(root, new.name, force=False) as work:
            folders.seal(work, made, "")
        with self._swapping:
            self._changes.pop(new.name, None)
            self.note(root / new.name, new.name)
            return self.serve(Index(root / new.name))

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

        def delete() -> None:
            with self._swapping:
                folders.remove(self._folder(name))
                self._seen.pop(self._folder(name), None)
                self._forget(name)

        with _on_disk():
            await asyncio.to_thread(delete)

    async def change_passages(self, index: str, edits: AsyncIterable[Edit]) -> Change:
        name, limits = self._need(index), self._settings
        served = self._shelf.named(name).index
        if served and not kinds.KINDS[served.manifest.kind].exact:
            reason = f"index {name!r} is of kind {served.manifest.kind}, which does not keep the vectors"
            raise RetrieverError(Failure.UNSUPPORTED, reason, "index")
        with _on_disk():
            draft = self._of(name).draft()
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
        self._failed.pop(name, None)
        self._wake.set()
        return change

    async def changes(self, index: str) -> Sequence[Change]:
        name = self._need(index)
        with _on_disk():
            return [self._told(change) for change in await asyncio.to_thread(self._of(name).all)]

    def _told(self, change: Change) -> Change:
        building = self._building.get(change.index)
        if change.state is not ChangeState.WAITING:
            return change
        if building and change.id <= building.id:
            now = self._progress
            return replace(
                change, state=ChangeState.BUILDING, phase=now.phase, done=now.done, total=now.total,
                started=building.started,
            )  # fmt: skip
        if error := self._failed.get(change.index):
            return replace(change, state=ChangeState.FAILED, error=error)
        return change

    async def roll_back(self, index: str, version: str) -> IndexInfo:
        name = self._need(index)

        def swap() -> IndexInfo:
            with self._swapping:
                folder = self._folder(name)
                kept = folders.versions_of(folder) / version
                if not manifests.NAME.fullmatch(version) or not kept.is_dir():
                    raise RetrieverError(Failure.NOT_FOUND, f"version {version!r} is not kept", "version")
                opened = self._open(kept)
                folders.put_in_place(folder, kept, self._settings.keep_versions)
                self.note(folder, name)
                return self.serve(opened)

        try:
            with _on_disk():
                return await asyncio.to_thread(swap)
        except Problem as problem:
            raise RetrieverError(Failure.BROKEN, f"version {version!r} cannot be opened", "version") from problem

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await asyncio.to_thread(self.look)
            except Exception as error:  # whatever it is, the next look may find it gone
                log.error("folders not read", error=repr(error))

    async def _build_all(self) -> None:
        while True:
            self._wake.clear()
            for name in self._waiting():
                await asyncio.to_thread(self._build, name)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _LOOK_S if self._failed else None)

    def _waiting(self) -> list[str]:
        """Returns the indexes that have changes to build, including any whose folder cannot be read."""
        found = []
        for name in [served.info.name for served in self._shelf if self._writable(served.info.name)]:
            try:
                if self._of(name).waiting():
                    found.append(name)
                else:
                    self._failed.pop(name, None)
            except OSError:
                found.append(name)
        return found

    def _build(self, name: str) -> None:
        """Builds all waiting changes into one version, and serves it. Never raises."""
        changes, started = self._of(name), time.time()
        self._progress = Progress()
        try:
            waiting, known = changes.waiting(), {change.id: change for change in changes.all()}
            if not waiting:  # the index was deleted meanwhile
                return
            self._building[name] = replace(known[max(waiting)], started=started)
            with _measured():
                version = self._new_version(name, changes, [*waiting.values()])
            with self._swapping:
                self._check_same(name, changes)
                for id in waiting:
                    done = replace(known[id], done=self._progress.done, total=self._progress.total, version=version)
                    changes.finish(replace(done, state=ChangeState.DONE, started=started, finished=time.time()))
                self._failed.pop(name, None)
            log.info("changes built", index=name, version=version, changes=len(waiting))
        except Exception as error:  # whatever it is, the version before goes on
            if self._changes.get(name) is not changes:
                log.info("build given up, the index was deleted", index=name)
                return
            self._failed[name] = str(error) or repr(error)
            log.error("build failed, the version before it stays", index=name, error=repr(error))
        finally:
            self._building.pop(name, None)

    def _check_same(self, name: str, changes: Changes) -> None:
        """Raises IndexRefused if the changes' index was deleted, even if there is a new one of the same name."""
        if self._changes.get(name) is not changes:
            raise IndexRefused(self._folder(name), "was deleted")

    def _new_version(self, name: str, changes: Changes, edits: list[Path]) -> str:
        """Returns the version with the changes. Starts again if another version was put in place meanwhile."""
        folder = self._folder(name)
        with folders.working(folder.parent, name) as work:
            while True:
                before = manifests.read(folder, verify_checksums=False)
                made = rebuild(folder, edits, work, self._encoders.of(before), self._progress)
                if made is None:
                    shutil.rmtree(work)
                    return before.version
                self._progress.phase = "verify"
                opened = self._open(work)
                with self._swapping:
                    self._check_same(name, changes)
                    if manifests.read(folder, verify_checksums=False).version == before.version:
                        folders.put_in_place(folder, work, self._settings.keep_versions)
                        self.note(folder, name)
                        return self.serve(opened).version

    def _writable(self, name: str) -> bool:
        # Between the two renames of a swap there is no folder to look at.
        seen = self._seen.get(self._root / name) if self._root else None
        return seen is not None and seen.file == manifests.MANIFEST

    def _folder(self, name: str) -> Path:
        assert self._root is not None
        return self._root / name

    def _of(self, name: str) -> Changes:
        if name not in self._changes:
            folder = self._folder(name)
            self._changes[name] = Changes(folder.with_name(f"{name}.changes"), name)
        return self._changes[name]

    def _need(self, index: str) -> str:
        """Returns the name of an index that may be changed. Raises RetrieverError."""
        name = self._shelf.named(index).info.name
        if not self._writable(name):
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


def _described(folder: Path) -> str:
    """Returns the name of the file that makes a folder an index, empty if there is none."""
    return next((name for name in (SOURCE, manifests.MANIFEST) if (folder / name).is_file()), "")


def _is_gone(folder: Path) -> bool:
    """Returns whether a folder is no longer an index. One that cannot be read is still served."""
    try:
        return not _described(folder)
    except OSError:
        return False


def _seen(folder: Path) -> _Seen:
    """Returns what the folder contains now. Raises FileNotFoundError if it is not an index."""
    file = _described(folder) or manifests.MANIFEST
    found = (folder / file).stat()
    return _Seen(file, (found.st_mtime_ns, found.st_ino, found.st_size), folder.name)


@contextmanager
def _on_disk() -> Iterator[None]:
    """Raises RetrieverError for errors of the disk. They concern this index; other indexes are still searched."""
    try:
        yield
    except OSError as error:
        raise RetrieverError(Failure.UNAVAILABLE, f"the disk: {error.strerror or error}", "index") from error


@contextmanager
def _measured() -> Iterator[None]:
    """Counts a build and its time."""
    started, outcome = time.monotonic(), _FAILED
    metrics.RETRIEVER_BUILDING.inc()
    try:
        yield
        outcome = _BUILT
    finally:
        metrics.RETRIEVER_BUILDING.dec()
        metrics.RETRIEVER_BUILD_SECONDS.labels(outcome).observe(time.monotonic() - started)
