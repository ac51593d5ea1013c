"""Changes of an index that is served. Each is a file before it is acknowledged, so that none is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

from common import stored
from common.files import write_whole
from common.indexes import Change, ChangeState, Edit, Removal
from services.retriever.passages import as_line, of_line

_EDITS, _DONE = ".edits", ".done"
_REMEMBERED = 100  # changes that are done


class Changes:
    """The changes in `folder`, by id: those that wait to be built, and the latest that are done."""

    def __init__(self, folder: Path, index: str) -> None:
        self.folder, self._index = folder, index
        self._waiting: dict[int, Change] = {}

    def draft(self) -> Draft:
        """Returns a change to fill. Raises OSError."""
        self.folder.mkdir(exist_ok=True)
        return Draft(self.folder, self._index, self)

    def waiting(self) -> dict[int, Path]:
        """Returns the files of the changes that wait, in their order."""
        return self._files(_EDITS)

    def all(self) -> list[Change]:
        """Returns the changes that wait and the latest that are done, newest first."""
        found: dict[int, Change] = {}
        for id, path in self.waiting().items():  # first, so that one that is finished meanwhile is found as done
            with suppress(FileNotFoundError):
                found[id] = self._change(id, path)
        for path in self._files(_DONE).values():
            with suppress(FileNotFoundError):  # the oldest are forgotten
                if change := stored.read(Change, path.read_bytes()):
                    found[change.id] = change
        return [found[id] for id in sorted(found, reverse=True)]

    def finish(self, change: Change) -> None:
        """Records that a change is done, and forgets its edits."""
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
    """A change that is being received: nothing of it counts until it is committed."""

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
        self._file.close()
        self._path.unlink(missing_ok=True)


def edits_of(path: Path) -> Iterator[Edit]:
    """Yields the edits of a change's file."""
    with path.open("rb") as lines:
        for line in lines:
            parts = json.loads(line)
            yield Removal(parts[0]) if len(parts) == 1 else of_line(line)


def _counted(index: str, id: int, upserts: dict[str, bool], path: Path) -> Change:
    count = sum(upserts.values())
    return Change(index, id, ChangeState.WAITING, count, len(upserts) - count, stored=path.stat().st_mtime)
