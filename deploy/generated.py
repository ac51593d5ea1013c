"""Files that come from code."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from os.path import relpath
from pathlib import Path


def main(files: Iterable[tuple[Path, str]], command: str) -> int:
    """Writes each file whose text is not the one given. With --check, it names `command` and returns 1 instead."""
    checks = "--check" in sys.argv[1:]
    stale = [(file, fresh) for file, fresh in files if not file.exists() or file.read_text(encoding="utf-8") != fresh]
    for file, fresh in stale:
        if not checks:
            file.write_text(fresh, encoding="utf-8")
        print(f"{relpath(file)}: {f'stale; run {command}' if checks else 'written'}")
    return int(checks and bool(stale))
