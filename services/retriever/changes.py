"""Changes to a served index. Each is written to a file before it is acknowledged, so that none is lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

from common import stored
from common.files import write_whole
from common.indexes import Change, ChangeState, Edit, Removal
from services.retriever.errors import IndexRefused
from services.retriever.passages import as_line, of_line

_EDITS, _DONE = ".edits", ".done"
_REMEMBERED = 100  # changes that are done
_ABANDONED_S = 3600.0  # the age of a draft that nobody fills any more


class Changes:
    """The changes in `folder`, by id: those waiting to be built, and the latest finished ones."""

    def __init__(self, folder: Path, index: str) -> None:
        self.folder, self._index = folder, index
        self._waiting: dict[int, Change] = {}
        self.fault = ""  # of the last attempt to build them

    def recover(self) -> None:
        """Removes the drafts that a killed process left."""
        for path in self.folder.glob(".*"):
            with suppress(FileNotFoundError):  # another replica's, which ends
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()

    def draft(self) -> Draft:
        """Returns a change to fill. Raises OSError."""
        self.folder.mkdir(exist_ok=True)
        return Draft(self.folder, self._index, self)

    def waiting(self) -> dict[int, Path]:
        """Returns the files of the waiting changes, in order."""
        return self._files(_EDITS)

    def all(self) -> list[Change]:
        """Returns the changes that wait and the latest that are done, newest first.

        A change whose edits cannot be read has failed; a damaged record of one that is done is left out. Raises
        OSError.
        """
        found: dict[int, Change] = {}
        for id, path in self.waiting().items():  # first, so that one that is finished meanwhile is found as done
            try:
                found[id] = self._change(id, path)
            except FileNotFoundError:
                continue
            except (IndexRefused, OSError) as problem:
                found[id] = Change(self._index, id, ChangeState.FAILED, error=str(problem))
        for path in self._files(_DONE).values():
            try:
                change = stored.read(Change, path.read_bytes())
            except OSError:  # the oldest are forgotten
                continue
            if change:
                found[change.id] = change
        return [found[id] for id in sorted(found, reverse=True)]

    def finish(self, change: Change) -> None:
        """Records that a change is done, and deletes its edits."""
        write_whole(self.folder / f"{change.id:012d}{_DONE}", json.dumps(asdict(change)))
        (self.folder / f"{change.id:012d}{_EDITS}").unlink(missing_ok=True)
        for path in [*self._files(_DONE).values()][:-_REMEMBERED]:
            path.unlink(missing_ok=True)

    def newest(self) -> int:
        """Returns the id of the latest change, 0 if there was none."""
        return max([0, *self._files(_EDITS), *self._files(_DONE)])

    def _change(self, id: int, path: Path) -> Change:
        if id not in self._waiting:
            upserts: dict[str, bool] = {edit.id: not isinstance(edit, Removal) for edit in edits_of(path)}
            self._waiting[id] = _counted(self._index, id, upserts, path)
        return self._waiting[id]

    def _files(self, ending: str) -> dict[int, Path]:
        found = sorted(self.folder.glob(f"[0-9]*{ending}")) if self.folder.is_dir() else []
        return {int(path.stem): path for path in found if path.stem.isdecimal()}


class Draft:
    """A change that is being received. It has no effect until it is committed."""

    def __init__(self, folder: Path, index: str, changes: Changes) -> None:
        self._folder, self._index, self._changes = folder, index, changes
        self._path = folder / f".{uuid4().hex}"
        self._file = self._path.open("w", encoding="utf-8", newline="\n")
        self._upserts: dict[str, bool] = {}

    def add(self, edit: Edit) -> None:
        removal = isinstance(edit, Removal)
        self._file.write((json.dumps([edit.id]) if isinstance(edit, Removal) else as_line(edit)) + "\n")
        self._upserts[edit.id] = not removal

    def commit(self) -> Change:
        """Puts the change on disk under the next id. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        id = self._changes.newest() + 1
        while True:
            path = self._folder / f"{id:012d}{_EDITS}"
            try:
                os.link(self._path, path)
                break
            except FileExistsError:  # another replica's
                id += 1
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return _counted(self._index, id, self._upserts, path)

    def close(self) -> None:
        """Removes the draft; a change that was committed stays."""
        try:
            self._file.close()  # writes what is left, for which a full disk has no room
        finally:
            self._path.unlink(missing_ok=True)


def edits_of(path: Path) -> Iterator[Edit]:
    """Yields the edits of a change's file. Raises OSError, and IndexRefused for a line that is no edit."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield _edit(path, number, line)


def _edit(path: Path, number: int, line: bytes) -> Edit:
    try:
        parts = json.loads(line)
        if not all(isinstance(part, str) for part in parts[:3]):
            raise ValueError("not texts")
        return Removal(parts[0]) if len(parts) == 1 else of_line(line)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        advice = "is damaged; nothing is built until the file is restored, or removed and its passages sent again"
        raise IndexRefused(path, f"line {number} {advice}") from error


def _counted(index: str, id: int, upserts: dict[str, bool], path: Path) -> Change:
    count = sum(upserts.values())
    return Change(index, id, ChangeState.WAITING, count, len(upserts) - count, stored=path.stat().st_mtime)
