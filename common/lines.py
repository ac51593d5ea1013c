"""Lines of a stream or file. Only a line feed ends one.

`str.splitlines` and httpx's `iter_lines` also split at U+2028, U+0085 and others, which JSON leaves unescaped in texts.
"""

from __future__ import annotations

from collections.abc import Iterator


def whole(data: bytes) -> tuple[list[bytes], bytes]:
    """Returns the ended lines of `data`, without LF or CRLF, and what follows the last line feed."""
    *lines, rest = data.split(b"\n")
    return [line.removesuffix(b"\r") for line in lines], rest


class EventStream:
    """Decodes Server-Sent Events (WHATWG HTML, section 9.2) from chunks cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._name, self._data = "", list[str]()

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Yields the name and the data of each event that `chunk` completes."""
        lines, self._rest = whole(self._rest + chunk)
        for line in lines:
            field, _, value = line.decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._name = value
            elif field == "data":
                self._data.append(value)
            elif not line:
                if self._data:
                    yield self._name, "\n".join(self._data)
                self._name, self._data = "", []
