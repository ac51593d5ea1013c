"""Text from other servers, as passages may hold it."""

from __future__ import annotations

import html
import unicodedata


def cleaned(text: str) -> str:
    """Returns the text without halves of surrogate pairs, and with spaces for control characters but line feeds."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\r\n", "\n")
    return "".join(c if c == "\n" or unicodedata.category(c) != "Cc" else " " for c in whole).strip()


def line(text: str) -> str:
    """Returns the text cleaned, on one line."""
    return " ".join(cleaned(text).split())


def from_html(text: str) -> str:
    """Returns a snippet on one line, with the characters that its entities stand for."""
    return line(html.unescape(text))
