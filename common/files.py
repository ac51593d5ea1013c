"""Files that are there in whole or not at all, and whether one can be written."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """A reader finds the old text or the new one, also if we are killed. Raises OSError."""
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def check_writable(path: Path) -> None:
    """Raises OSError if a file cannot be written there. What is there stays as it is."""
    there = path.exists()
    path.open("ab").close()
    if not there:
        path.unlink()
