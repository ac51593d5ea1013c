"""Reading JSON records, from files and from bodies that are still coming: JSON lines or a JSON array."""

from __future__ import annotations

import codecs
import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CHUNK = 1 << 20
_HEAD = 200  # bytes in which an object's first name and the bracket behind it stand
_SPACE = re.compile(rb"[ \t\r\n]*")
# A string, or what opens, closes or separates values; a quote alone opens a string whose end is still to come.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)


class BrokenFile(ValueError):
    """A file or body that cannot be read from `line` on."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def read(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (line number, record), as `Records` does.

    Raises BrokenFile where a gzip stream is damaged, OSError if the file cannot be opened.
    """
    number, found = 0, Records()
    try:
        with open_file(path) as file:
            read_some = cast("Callable[[int], bytes]", file.read1)  # type: ignore[attr-defined]
            for chunk in iter(partial(read_some, _CHUNK), b""):
                for number, record in found.feed(chunk):
                    yield number, record
            yield from found.end()
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


class Records:
    """Splits bytes that come in chunks into records: each line that is not blank, or each item of a JSON array.

    Lines end at line feeds only, so that U+2028 and carriage returns stay inside their record. Only the newest chunk
    and a record that is not whole yet are held in memory. `key` allows the array to be an object's only value, under
    that name. A record of more than `longest` bytes raises BrokenFile.
    """

    def __init__(self, longest: float = math.inf, key: str = "") -> None:
        self._longest, self._key = longest, key
        self._data, self._at, self._line, self._ended = b"", 0, 1, False
        self._found = self._array_or_lines()

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields the line number (from 1) and the bytes of each record that `chunk` completes.

        Where an array is malformed, what is there is its last record.
        """
        self._data, self._at = self._data[self._at :] + chunk, 0
        yield from iter(lambda: next(self._found, None), None)
        if len(self._data) - self._at > self._longest:
            raise BrokenFile(self._line, f"the record has more than {self._longest:,} bytes")

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Yields what remains."""
        self._ended = True
        yield from self.feed(b"")

    # The methods below yield records, and None to wait for more bytes.

    def _array_or_lines(self) -> Iterator[tuple[int, bytes] | None]:
        while len(self._data) < len(codecs.BOM_UTF8) and not self._ended:
            yield None
        if self._data.startswith(codecs.BOM_UTF8):
            self._take(len(codecs.BOM_UTF8))
        yield from self._skip_space()
        closing = [b"]"]
        if self._key and self._sees(b"{"):
            while len(self._data) - self._at < _HEAD and not self._ended:
                yield None
            opening = rb'{\s*"%s"\s*:\s*(?=\[)' % re.escape(self._key).encode()
            if found := re.compile(opening).match(self._data, self._at):
                self._take(found.end() - found.start())
                closing.append(b"}")
        if self._sees(b"["):
            self._take(1)
            yield from self._items(closing)
        else:
            yield from self._lines()

    def _lines(self) -> Iterator[tuple[int, bytes] | None]:
        while True:
            *lines, rest = self._data[self._at :].split(b"\n")
            if self._ended:
                lines, rest = [*lines, rest], b""
            self._data, self._at = rest, 0
            for line in lines:
                if line.strip():
                    yield self._line, line
                self._line += 1
            if self._ended:
                return
            yield None

    def _items(self, closing: list[bytes]) -> Iterator[tuple[int, bytes] | None]:
        yield from self._skip_space()
        more = not self._sees(b"]")
        while more:
            end = yield from self._end_of_item()
            if end < 0:
                break
            yield self._line, self._take(end - self._at)
            yield from self._skip_space()
            if more := self._sees(b","):
                self._take(1)
                yield from self._skip_space()
        for bracket in closing:
            if not self._sees(bracket):
                yield self._line, self._data[self._at :]
                break
            self._take(1)
            yield from self._skip_space()
        else:
            if self._at < len(self._data):
                yield self._line, self._data[self._at :]
        while not self._ended:
            self._at = len(self._data)  # nothing can follow
            yield None
        self._at = len(self._data)

    def _end_of_item(self) -> Generator[None, None, int]:
        """Returns the position behind the item that begins here, -1 if the bytes end before it does."""
        depth, scanned = 0, self._at
        while True:
            for token in _TOKEN.finditer(self._data, scanned):
                if token[0] == b'"':
                    scanned = token.start()
                    break
                scanned = token.end()
                if token[0] in (b"[", b"{"):
                    depth += 1
                elif token[0] in (b"]", b"}"):
                    depth -= 1
                    if depth <= 0:
                        return token.start() if depth < 0 else token.end()
                elif token[0] == b"," and not depth:
                    return token.start()
            if self._ended:
                return -1
            ahead = scanned - self._at
            yield None
            scanned = self._at + ahead

    def _skip_space(self) -> Iterator[None]:
        while True:
            space = _SPACE.match(self._data, self._at)
            assert space
            self._take(space.end() - self._at)
            if self._at < len(self._data) or self._ended:
                return
            yield None

    def _sees(self, mark: bytes) -> bool:
        return self._data.startswith(mark, self._at)

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        self._line += taken.count(b"\n")
        return taken
