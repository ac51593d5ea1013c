"""An append-only file of JSON lines that survives a crash: readers see whole lines only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from common import lines, stored
from common.files import append_whole

T = TypeVar("T")


class Journal(Generic[T]):
    """Opens or creates the file at `path`. `found` holds its values of type `kind`.

    A torn last line is removed. A line that is damaged or from another version stays in the file but not in `found`,
    so that its work is done again; standard error says so.
    """

    def __init__(self, path: Path, kind: type[T], fresh: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb" if fresh else "ab", buffering=0)
        content = path.read_bytes()
        whole, torn = lines.whole(content)
        if torn:
            os.truncate(path, len(content) - len(torn))
        self.found = _values(path, kind, whole)

    def append(self, value: Mapping[str, Any]) -> None:
        """Raises OSError, and the file is then as it was."""
        append_whole(self._file, json.dumps(value, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def read(path: Path, kind: type[T]) -> list[T]:
    """Returns what a Journal of `path` would find, without changing the file. Raises OSError."""
    return _values(path, kind, lines.whole(path.read_bytes())[0])


def _values(path: Path, kind: type[T], whole: list[bytes]) -> list[T]:
    values = [stored.read(kind, line) for line in whole]
    if missing := [number for number, value in enumerate(values, 1) if value is None]:
        said = f"{path}:{missing[0]}: {len(missing)} of {len(whole)} lines are damaged or from another version; ignored"
        print(said, file=sys.stderr)
    return [value for value in values if value is not None]
