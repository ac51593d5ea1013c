from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from services.generator.spelling import Spelling

Decode = Callable[[Sequence[int]], str]


def decode(ids: Sequence[int], errors: str = "replace") -> str:
    """Decodes bytes, and drops a space at the beginning, as SentencePiece does."""
    return bytes(ids).decode(errors=errors).removeprefix(" ")


def spelled(text: str, *stops: str, decode: Decode = decode) -> tuple[list[str], str]:
    """Returns the pieces of a text whose bytes come one by one, and the stop string."""
    spelling, pieces = Spelling(decode, stops), []
    ids = text.encode()
    for at, each in enumerate(ids):
        piece, stop = spelling.add([each], at == len(ids) - 1)
        pieces.append(piece)
        if stop:
            return pieces, stop
    return pieces, ""


@pytest.mark.parametrize("errors", ["replace", "ignore"])
def test_characters_come_whole_and_spaces_stay(errors: str) -> None:
    pieces, stop = spelled("a é €!", decode=partial(decode, errors=errors))
    assert pieces == ["a", " ", "", "é", " ", "", "", "€", "!"]
    assert not stop


@pytest.mark.parametrize(
    ("text", "stops", "before", "stop"),
    [
        ("one</a> two", ("</a>",), "one", "</a>"),
        ("a < b </b", ("</a>",), "a < b </b", ""),
        ("x\n\ny", ("\n\n", "y"), "x", "\n\n"),
        ("xaab", ("aab",), "x", "aab"),
        ("é€", ("€",), "é", "€"),
    ],
)
def test_a_text_ends_before_its_stop_string(text: str, stops: tuple[str, ...], before: str, stop: str) -> None:
    pieces, found = spelled(text, *stops)
    assert ("".join(pieces), found) == (before, stop)


def test_many_ids_at_once_end_at_the_first_stop_string() -> None:
    assert Spelling(decode, ("b", "a")).add(b"xay b", False) == ("x", "a")


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    spelling = Spelling(decode, ("</a>",))
    assert spelling.add(b"one </", False) == ("one ", "")
    assert spelling.add(b"b>", False) == ("</b>", "")
    assert spelling.add(b" <", True) == (" <", "")


def test_a_torn_character_at_the_end_is_shown() -> None:
    assert Spelling(decode, ()).add("é".encode()[:1], True) == ("\ufffd", "")
