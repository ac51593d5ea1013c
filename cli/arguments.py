"""Types of arguments that several commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar
from urllib.parse import urlsplit

Chosen = TypeVar("Chosen")


def positive(text: str) -> int:
    """Parses a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def days(text: str) -> int:
    """Parses a number of days, a hundred years at most."""
    value = positive(text)
    if value > 36_500:
        raise argparse.ArgumentTypeError("must be at most 36500")
    return value


def natural(text: str) -> int:
    """Reads a whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return value


def share(text: str) -> float:
    """Reads a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


def seconds(text: str) -> float:
    """Parses a time above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return value


def web_address(text: str) -> str:
    """Parses a URL, and returns it without a slash at its end."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as http://HOST:PORT")
    return text.rstrip("/")


def conditions(text: str) -> dict[str, Any]:
    """Parses a filter: JSON, or KEY, KEY=VALUE, KEY=VALUE,VALUE, KEY>=VALUE or KEY<=VALUE, where 1990 is a number."""
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    at = min((text.find(sign) for sign in (">=", "<=", "=") if sign in text), default=len(text))
    if {"<", ">"} & {*text[:at]}:
        raise argparse.ArgumentTypeError(f"{text!r} has neither >= nor <=; a key with < or > can be given as JSON")
    if at == len(text):
        return {text: {"exists": True}}
    key, (sign, value) = text[:at].strip(), (text[at : at + 2], text[at + 2 :])
    if sign in (">=", "<="):
        return {key: {"gte" if sign == ">=" else "lte": _value(value)}}
    return {key: {"in": [_value(each) for each in text[at + 1 :].split(",")]}}


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Adds --filter, whose values `merged` puts together."""
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        type=conditions,
        metavar="CONDITION",
        help="on metadata: lang=en, lang=en,de, year>=1990, year<=1999, doi (has it), or JSON; all of them must hold",
    )


def merged(filters: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns one filter whose conditions are those of all."""
    found: dict[str, Any] = {}
    for each in filters:
        for key, asked in each.items():
            both = isinstance(asked, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = {**found[key], **asked} if both else asked
    return found


def _value(text: str) -> Any:
    """Returns a number or a truth value as JSON writes it, and anything else as text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    return value if isinstance(value, int | float | str) else text.strip()


def add_settings(parser: argparse.ArgumentParser, kind: type[Any]) -> None:
    """Adds a flag for each field of the dataclass `kind`, with its default and its "help"."""
    for each in fields(kind):
        flag, told = f"--{each.name.replace('_', '-')}", f"{each.metadata['help']} (default: %(default)s)"
        parser.add_argument(flag, type=type(each.default), default=each.default, help=told)


def settings_of(args: argparse.Namespace, kind: type[Chosen]) -> Chosen:
    """Returns the settings that the flags of `add_settings` gave."""
    return kind(**{each.name: getattr(args, each.name) for each in fields(kind)})  # type: ignore[arg-type]
