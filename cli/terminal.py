"""Lines beside a command's output, and text that others wrote, for a terminal."""

from __future__ import annotations

import sys
import unicodedata


def say(line: str) -> None:
    """Prints a line on standard error."""
    print(line, file=sys.stderr)


def one_line(text: str) -> str:
    """Returns a text with a space for each character that a terminal obeys: line breaks, controls, directions."""
    return "".join(" " if _is_obeyed(each) else each for each in text)


def _is_obeyed(character: str) -> bool:
    directed = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return directed or unicodedata.category(character) in ("Cc", "Zl", "Zp")
