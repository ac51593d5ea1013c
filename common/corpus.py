"""Reads a corpus: JSON lines or JSON arrays, plain or gzipped, in the shapes in which people publish them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from common import passages, records
from common.problems import Problem
from search_agent.types import Passage

PARTS = ".parts.json"  # ending of the file beside a download that says what it is made of

_ENDINGS = (".jsonl", ".ndjson", ".json")


class CorpusProblem(Problem):
    """A file of a corpus cannot be opened, or a folder has none."""


class BadRecord(CorpusProblem):
    """A record of a corpus is not a passage. Names the file and the line, from 1."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")


def stop(bad: BadRecord) -> None:
    """Raises the error of a bad record."""
    raise bad


def corpus_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Returns the files that `read_corpus` reads, in its order, and what it passes over in a folder.

    A folder and its subfolders are searched for .jsonl, .ndjson and .json, in any case and with or without .gz; links
    to folders are passed over. Hidden files and folders, and what a download keeps beside its files, are ignored.
    Raises CorpusProblem if a folder has nothing to read.
    """
    if not path.is_dir():
        return [path], []
    files: list[Path] = []
    others: list[Path] = []
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts) or file.name.endswith(PARTS)
        if not hidden and (file.is_symlink() or not file.is_dir()):
            wanted = file.name.lower().removesuffix(".gz").endswith(_ENDINGS)
            (files if wanted else others).append(file)
    if not files:
        raise CorpusProblem(f"{path}: no {', '.join(_ENDINGS)} files (or the same with .gz) in this folder")
    return files, others


def read_corpus(path: Path, on_bad: Callable[[BadRecord], None] = stop) -> Iterator[Passage]:
    """Yields the passages of a file or of a folder's files (see `corpus_files`), in order.

    `on_bad` gets each record that is not a passage or repeats an id. It either raises the error or returns, which
    skips the record. A gzip stream that is damaged counts as one bad line at the place where reading stopped.
    Raises CorpusProblem if a file cannot be opened.
    """
    seen: set[str] = set()
    for file in corpus_files(path)[0]:
        yield from _read_file(file, seen, on_bad)


def _read_file(path: Path, seen: set[str], on_bad: Callable[[BadRecord], None]) -> Iterator[Passage]:
    try:
        for number, record in records.read(path):
            try:
                passage = passages.read_passage(record)
                if passage.id in seen:
                    raise ValueError(f"duplicate id {passage.id!r}")
            except ValueError as error:
                on_bad(BadRecord(path, number, str(error)))
                continue
            seen.add(passage.id)
            yield passage
    except records.BrokenFile as error:
        on_bad(BadRecord(path, error.line, str(error)))
    except OSError as error:
        raise CorpusProblem(f"{path}: {error.strerror or error}") from error
