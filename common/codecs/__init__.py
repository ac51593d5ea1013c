"""Codecs between values and the contracts' messages. Each contract has one, which its client and its service share.

A message and its value have fields of the same names, so that a new field needs no line here.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")


def fields_of(value: Any, kind: type | None = None, /, **converted: Any) -> dict[str, Any]:
    """Returns a dataclass's fields by name, for its message; `converted` replaces what is not copied.

    `kind` is a base class of the value's, whose fields alone are meant.
    """
    return {name: getattr(value, name) for name in _names(kind or type(value)) if name not in converted} | converted


def value_of(kind: type[T], message: Message, **converted: Any) -> T:
    """Builds a dataclass from its message; `converted` are the fields that are not copied."""
    return kind(**{name: getattr(message, name) for name in _names(kind) if name not in converted}, **converted)  # type: ignore[arg-type]


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))
