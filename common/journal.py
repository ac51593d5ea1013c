"""A file of JSON lines that survives being killed: whole lines only, each written at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Opens or goes on with `path`. A last line that was torn off is removed; its work is done again."""

    def __init__(self, path: Path, fresh: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb" if fresh else "ab", buffering=0)
        whole = path.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        if len(kept) < len(whole):
            os.truncate(path, len(kept))
        self.found: list[dict[str, Any]] = [json.loads(line) for line in kept.splitlines()]

    def append(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        self._file.close()
