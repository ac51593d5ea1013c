"""Reads a corpus: JSON lines, plain or gzipped, in this project's shape or in s3's."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from search_agent.types import Passage
from services.retriever.errors import BadRecord, BuildRefused


def read_corpus(path: Path, on_bad: Callable[[BadRecord], None]) -> Iterator[Passage]:
    """Yields the passages of a file, or of a folder's .jsonl and .jsonl.gz files by name, in order.

    Blank lines are passed over. `on_bad` gets each line that is no passage, or repeats an id, and either
    raises it or returns, which skips the line. A gzip stream that breaks off is one bad line, the last.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz")))
        if not files:
            raise BuildRefused(f"{path}: a folder without .jsonl or .jsonl.gz files")
    seen: set[str] = set()
    for file in files:
        yield from _read_file(file, seen, on_bad)


def _read_file(path: Path, seen: set[str], on_bad: Callable[[BadRecord], None]) -> Iterator[Passage]:
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if not line.strip():
                    continue
                try:
                    passage = parse_record(line)
                    if passage.id in seen:
                        raise ValueError(f"duplicate id {passage.id!r}")
                except ValueError as error:
                    on_bad(BadRecord(path, number, str(error)))
                    continue
                seen.add(passage.id)
                yield passage
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        on_bad(BadRecord(path, number + 1, f"broken gzip stream: {error}"))
    except OSError as error:
        raise BuildRefused(f"{path}: {error.strerror or error}") from error


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.open(file)) if gzipped else file


def parse_record(line: bytes) -> Passage:
    """One line as a passage; raises ValueError with the reason.

    `{"id", "title", "text"}`; or MedCorp's `{"id", "title", "content"}`, whose "contents" repeats both; or
    `{"id", "contents"}` where contents is the title, which may stand in one pair of double quotes, a
    newline, and the text.
    """
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"invalid UTF-8 at byte {error.start + 1}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if "text" not in record and "title" in record and "content" in record:
        record["text"] = _field(record, "content")
    elif "text" not in record and "contents" in record:
        title, newline, text = _field(record, "contents").partition("\n")
        if not newline:
            raise ValueError('"contents" has no title line')
        if len(title) >= 2 and title[0] == title[-1] == '"':
            title = title[1:-1]
        record |= {"title": title, "text": text}
    return Passage(_field(record, "id"), _field(record, "title"), _field(record, "text"))


def _field(record: dict[str, object], name: str) -> str:
    if name not in record:
        raise ValueError(f'no "{name}"')
    value = record[name]
    if not isinstance(value, str):
        raise ValueError(f'"{name}" is not a string')
    if not value.strip():
        raise ValueError(f'"{name}" is empty')
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f'"{name}" holds half of a surrogate pair')
    return value
