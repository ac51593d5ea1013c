"""The folders of the indexes that are served, watched for what others put there."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from common.problems import Problem
from search_agent.types import IndexInfo
from services.retriever import folders
from services.retriever import manifest as manifests
from services.retriever.changes import Changes
from services.retriever.encoders import Encoders
from services.retriever.errors import IndexRefused
from services.retriever.gpu import Device
from services.retriever.index import Index
from services.retriever.settings import RetrieverSettings
from services.retriever.shelf import Served, Shelf
from services.retriever.sources import Source
from services.retriever.sources.config import SOURCE

log = structlog.get_logger()
_LOOK_S = 2.0  # between two looks at the folders


@dataclass(frozen=True, slots=True)
class _Seen:
    """A folder as it was opened last, or could not be: the file that describes it, its state, and the index's name."""

    file: str
    state: tuple[int, ...]
    name: str


class ServedFolders:
    """Opens the indexes in the folders of the settings, and puts them on the shelf. The writable ones have changes.

    Whoever replaces a folder holds `swapping`.
    """

    def __init__(
        self, shelf: Shelf, encoders: Encoders, settings: RetrieverSettings, gpus: Sequence[Device] = ()
    ) -> None:
        self.shelf, self.encoders = shelf, encoders
        self.root = settings.writable.resolve() if settings.writable else None
        self.swapping = threading.RLock()
        self._settings, self._gpus = settings, gpus
        self._seen: dict[Path, _Seen] = {}
        self._changes: dict[str, Changes] = {}

    def recover(self) -> None:
        """Restores what a killed process left under another name, and removes what it left unfinished."""
        for old in self.root.glob("*.old") if self.root else ():
            folders.undo_half_replacement(old.with_suffix(""))
        for gone in self.root.glob("*.gone") if self.root else ():
            shutil.rmtree(gone, ignore_errors=True)
        for changes in self.root.glob("*.changes") if self.root else ():
            Changes(changes, changes.stem).recover()

    def look(self) -> None:
        """Serves indexes that are new or replaced on disk, and no longer removed ones. Logs what cannot be opened."""
        roots = {root for root in (self._settings.indexes.resolve(), self.root) if root}
        with self.swapping:
            for folder in filter(_is_gone, [*self._seen]):
                time.sleep(0.1)  # between another program's two renames there is none either
                if _is_gone(folder):
                    name = self._seen.pop(folder).name
                    self._forget(name)
                    log.info("index gone", index=name)
        for root in sorted(roots):
            for folder in folders.candidates(root) if root.is_dir() else ():
                self._refresh(folder)
        with self.swapping:
            for served in self.shelf:
                self.shelf.put(replace(served, info=self._with_versions(served.info)))

    def note(self, folder: Path, name: str) -> None:
        """Remembers that the index in the folder has been opened."""
        self._seen[folder.parent.resolve() / folder.name] = replace(_seen(folder), name=name)

    def _refresh(self, folder: Path) -> None:
        try:
            with self.swapping:
                before, found = self._seen.get(folder), _seen(folder)
                if before == (found := replace(found, name=before.name if before else folder.name)):
                    return
                self._seen[folder] = found
                opened = Source(folder) if found.file == SOURCE else self.open(folder)
                if any(each.name == opened.name and path != folder for path, each in self._seen.items()):
                    raise IndexRefused(folder, f"a second index called {opened.name!r}")
                self._seen[folder] = replace(found, name=opened.name)
                self.serve(opened)
        except FileNotFoundError:
            return
        except (Problem, OSError) as problem:
            log.error("index not opened, what was served stays", index=folder.name, error=str(problem))

    def open(self, folder: Path) -> Index:
        """Opens the index in a folder. Raises IndexRefused."""
        return Index(folder, self._settings.verify_checksums, self._gpus)

    def put_in_place(self, name: str, made: Path, opened: Index) -> IndexInfo:
        """Replaces a writable index by `opened`, whose folder is `made`, and keeps the one before."""
        with self.swapping:
            folders.put_in_place(self.folder(name), made, self._settings.keep_versions)
            self.note(self.folder(name), name)
            return self.serve(opened)

    def add(self, name: str) -> IndexInfo:
        """Serves a writable index that has just been made."""
        with self.swapping:
            self._changes.pop(name, None)
            self.note(self.folder(name), name)
            return self.serve(Index(self.folder(name)))

    def delete(self, name: str) -> None:
        """Removes a writable index with its versions and changes."""
        with self.swapping:
            folders.remove(self.folder(name))
            self._seen.pop(self.folder(name), None)
            self._forget(name)

    def serve(self, opened: Index | Source) -> IndexInfo:
        """Serves an index that has been noted, in place of the one of its name. Raises EncoderUnavailable.

        Searches in progress keep the previous one, which is closed with the last of them.
        """
        info = self._with_versions(opened.info)
        if isinstance(opened, Source):
            served = Served(info, source=opened)
        else:
            served = Served(info, opened, self.encoders.of(opened.manifest))
        info = self.shelf.put(served).info
        log.info(
            "index opened", index=info.name, version=info.version, passages=info.passages, kind=info.kind,
            encoder=info.encoder, modes=[mode.value for mode in info.modes], default=info.is_default,
        )  # fmt: skip
        return info

    def _forget(self, name: str) -> None:
        """Stops serving an index. A build of it that is in progress then ends without effect."""
        self.shelf.drop(name)
        self._changes.pop(name, None)

    def _with_versions(self, info: IndexInfo) -> IndexInfo:
        """Returns the description of an index, with what its folder keeps. Reads the disk."""
        if not self.writable(info.name):
            return info
        return replace(info, writable=True, versions=folders.versions(self.folder(info.name)))

    async def watch(self) -> None:
        """Looks at the folders again and again."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await asyncio.to_thread(self.look)
            except Exception as error:  # whatever it is, the next look may find it gone
                log.error("folders not read", error=repr(error))

    def writable(self, name: str) -> bool:
        """Returns whether an index may be changed."""
        # Between the two renames of a swap there is no folder to look at.
        seen = self._seen.get(self.root / name) if self.root else None
        return seen is not None and seen.file == manifests.MANIFEST

    def folder(self, name: str) -> Path:
        """Returns the folder of a writable index."""
        assert self.root is not None
        return self.root / name

    def changes_of(self, name: str) -> Changes:
        """Returns the changes of a writable index, the same object until the index is deleted."""
        if name not in self._changes:
            folder = self.folder(name)
            self._changes[name] = Changes(folder.with_name(f"{name}.changes"), name)
        return self._changes[name]

    def still_has(self, name: str, changes: Changes) -> bool:
        """Returns whether the index of these changes is there, and not another of the same name."""
        return self._changes.get(name) is changes


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
