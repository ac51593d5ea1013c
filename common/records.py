"""Reading files of JSON records: JSON lines or a JSON array, plain or gzipped."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class BrokenFile(ValueError):
    """A file that cannot be read from `line` on."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def read(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (line number, record): each line that is not blank, or each item of a JSON array.

    Lines end at line feeds only, so that U+2028 and carriage returns stay inside their record. An array is held in
    memory. Raises BrokenFile where a gzip stream is damaged, OSError if the file cannot be opened.
    """
    number = 0
    try:
        with open_file(path) as file:
            for number, record in _records(file):
                yield number, record
    except gzip.BadGzipFile as error:
        after = number and str(error).startswith("Not a gzipped file")
        reason = "bytes that are not gzip follow the gzip stream" if after else f"broken gzip stream: {error}"
        raise BrokenFile(number + 1, reason) from None
    except (EOFError, zlib.error) as error:
        raise BrokenFile(number + 1, f"broken gzip stream: {error}") from None


def open_file(path: Path) -> BinaryIO:
    """Opens a file to read its bytes, unpacked if it is gzipped, whatever it is called. Raises OSError."""
    file = path.open("rb")
    gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.open(file)) if gzipped else file


def parse(record: bytes, nan_is_null: bool = False) -> dict[str, object]:
    """Returns a record's fields. Raises ValueError with the reason if it is not a JSON object of valid text.

    `nan_is_null` reads NaN, which pandas writes for a missing value and JSON does not know, as null.
    """
    try:
        fields = json.loads(record.decode(), parse_constant=_null if nan_is_null else _refuse)
    except UnicodeDecodeError as error:
        reason = "UTF-16, not UTF-8" if record.startswith(_UTF16) else f"invalid UTF-8 at byte {error.start + 1}"
        raise ValueError(reason) from None
    except (ValueError, RecursionError) as error:
        comma = "; a comma follows the object" if record.rstrip().endswith(b"},") else ""
        raise ValueError(f"not JSON: {error}{comma}") from None
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    if b"\\ud" in record.lower():  # escapes are the only way in for half of a pair
        for name, value in fields.items():
            try:
                json.dumps([name, value], ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise ValueError(f"{json.dumps(name)} holds half of a surrogate pair") from None
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _null(constant: str) -> None:
    return None


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    first = True
    for number, line in enumerate(file, start=1):
        if first:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        if first and line.lstrip().startswith(b"["):
            yield from _items(number, line + file.read())
            return
        first = False
        yield number, line


def _items(number: int, array: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the items of a JSON array, held in memory, and what remains of it where it is malformed."""
    try:
        text = array.decode()
    except UnicodeDecodeError:
        yield number, array
        return
    decoder = json.JSONDecoder()
    at = _after_space(text, 0)
    separator = "["
    while text[at : at + 1] == separator:
        start = _after_space(text, at + 1)
        number += text.count("\n", at, start)
        at = start
        if separator == "[" and text[at : at + 1] == "]":
            break
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            yield number, text[at:].encode()
            return
        yield number, text[at:end].encode()
        start = _after_space(text, end)
        number += text.count("\n", at, start)
        at = start
        separator = ","
    if (rest := text[at:].rstrip()) != "]":
        yield number, rest.encode()


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n"):
        at += 1
    return at
