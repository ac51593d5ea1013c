"""Writes files and folders completely or not at all, even if the disk fills up."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def refusal(error: BaseException | None) -> str:
    """Returns the message of a disk that is full or refuses all writes; empty for any other error."""
    code = error.errno if isinstance(error, OSError) else None
    return os.strerror(code) if code in _REFUSALS else ""


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Yields a file to write, which replaces `path` at the end, or is removed after an error.

    A reader finds the old content or the new, even after a crash. Links and permissions stay. A pipe or a device is
    written to as it is. Raises OSError.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    draft = path.with_name(f"{path.name}.draft")
    try:
        yield draft
        with draft.open("rb") as file:
            if path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Replaces the file's text as `draft_of` does. Raises OSError."""
    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8")


def append_whole(file: FileIO, line: bytes) -> None:
    """Appends to a file that is open without a buffer. If the disk fills up, the file gets the whole line or nothing.

    Raises OSError.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        while line:  # a disk that fills up takes a part, and only then refuses
            line = line[file.write(line) :]
    except OSError:
        os.ftruncate(file.fileno(), size)
        raise


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which becomes `path` at the end, or is removed after an error.

    Its name is new: a folder that is there, such as `path`.draft, stays. Raises OSError.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.draft")
    draft.mkdir(parents=True)
    try:
        yield draft
        share(draft)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def share(folder: Path) -> None:
    """Lets whoever may list a folder read its files, too. safetensors lets only their owner. Raises OSError."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(mode)


def check_writable(path: Path) -> None:
    """Raises OSError if the file cannot be written. Leaves its content unchanged."""
    there = path.exists()
    path.open("ab").close()
    if not there:
        path.unlink()
