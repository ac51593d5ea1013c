"""Writing files in whole or not at all, and checking that they can be written."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replaces the file's text. A reader finds the old or the new text, even after a crash. Raises OSError."""
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def check_writable(path: Path) -> None:
    """Raises OSError if the file cannot be written. Leaves its content unchanged."""
    there = path.exists()
    path.open("ab").close()
    if not there:
        path.unlink()
