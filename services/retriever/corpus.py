"""Reads a corpus: JSON lines or JSON arrays, plain or gzipped, in the shapes in which people publish them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from common import records
from search_agent.types import Passage
from services.retriever.errors import BadRecord, BuildRefused
from services.retriever.hub import PARTS

_ENDINGS = (".jsonl", ".ndjson", ".json")


def corpus_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Returns the files that `read_corpus` reads, in its order, and what it passes over in a folder.

    A folder and its subfolders are searched for .jsonl, .ndjson and .json, in any case and with or without .gz; links
    to folders are passed over. Hidden files and folders, and what a download keeps beside its files, are ignored.
    Raises BuildRefused if a folder has nothing to read.
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
        raise BuildRefused(f"{path}: no {', '.join(_ENDINGS)} files (or the same with .gz) in this folder")
    return files, others


def read_corpus(path: Path, on_bad: Callable[[BadRecord], None]) -> Iterator[Passage]:
    """Yields the passages of a file or of a folder's files (see `corpus_files`), in order.

    `on_bad` gets each record that is not a passage or repeats an id. It either raises the error or returns, which
    skips the record. A gzip stream that is damaged counts as one bad line at the place where reading stopped.
    Raises BuildRefused if a file cannot be opened.
    """
    seen: set[str] = set()
    for file in corpus_files(path)[0]:
        yield from _read_file(file, seen, on_bad)


def _read_file(path: Path, seen: set[str], on_bad: Callable[[BadRecord], None]) -> Iterator[Passage]:
    try:
        for number, record in records.read(path):
            try:
                passage = parse_record(record)
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
        raise BuildRefused(f"{path}: {error.strerror or error}") from error


def parse_record(record: bytes) -> Passage:
    """Returns one JSON object as a passage. Raises ValueError with the reason.

    The id is "id" or BEIR's "_id". The text is "text", MedCorp's "content", or "contents": the title on a line of its
    own, in quotes or not, before the text, or the text alone. The title may be missing, null, NaN or empty.
    """
    fields = records.parse(record, nan_is_null=True)
    id = _filled(fields, "_id" if "_id" in fields and "id" not in fields else "id")
    title = "" if fields.get("title") is None else _string(fields, "title")
    title = title if title.strip() else ""
    body = next((body for body in ("text", "content", "contents") if body in fields), "text")
    text = _filled(fields, body)
    if body == "contents":
        title, text = _split(title, text)
    return Passage(id, title, text)


def _split(title: str, contents: str) -> tuple[str, str]:
    """Returns (title, text) of "contents", whose first line is the title unless another `title` is given."""
    first, newline, text = contents.partition("\n")
    first = first.rstrip("\r")
    if len(first) >= 2 and first[0] == first[-1] == '"':
        first = first[1:-1]
    first = first if first.strip() else ""
    if not newline or title not in ("", first):
        return title, contents
    if not text.strip():
        raise ValueError('"contents" has a title line and no text')
    return first, text


def _filled(fields: dict[str, object], name: str) -> str:
    value = _string(fields, name)
    if not value.strip():
        raise ValueError(f'"{name}" is empty')
    return value


def _string(fields: dict[str, object], name: str) -> str:
    """Returns a field that holds a string or an integer, as ids often are."""
    if name not in fields:
        raise ValueError(f'no "{name}"')
    value = fields[name]
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f'"{name}" is not a string')
    return value
