"""Turns JSON into dataclasses, checked against their types."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_ALIAS = "json"
_NUMBERS: dict[Any, Any] = {float: (float, int)}  # JSON does not tell 1.0 from 1
_hints = cache(get_type_hints)


class Mismatch(ValueError):
    """JSON that is not a value of the expected type; the message says where."""


def alias(name: str) -> dict[str, str]:
    """Returns the metadata of a dataclass's field that JSON calls `name`."""
    return {_ALIAS: name}


def decode(kind: type[T], value: Any, at: str = "the answer") -> T:
    """Returns `value`, as `json.loads` gives it, as a `kind`. Raises Mismatch.

    Knows dataclasses, tuples of one type, mappings from text, enumerations of text, unions with None, and plain values.
    Fields that a dataclass lacks are ignored, so that a newer gateway may send more.
    """
    found: T = _decode(kind, value, at)
    return found


def _decode(kind: Any, value: Any, at: str) -> Any:
    if kind is Any:
        return value
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (some,) = (each for each in inner if each is not type(None))
        return None if value is None else _decode(some, value, at)
    if origin is tuple:
        items = _expect(list, value, at)
        return tuple(_decode(inner[0], item, f"{at}[{n}]") for n, item in enumerate(items))
    if origin is Mapping:
        return {name: _decode(inner[1], item, f"{at}.{name}") for name, item in _expect(dict, value, at).items()}
    if is_dataclass(kind):
        return _fields(kind, _expect(dict, value, at), at)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise Mismatch(f"{at} is {value!r}, not one of {', '.join(each.value for each in kind)}") from None
    return _expect(kind, value, at)


def _fields(kind: Any, value: dict[str, Any], at: str) -> Any:
    hints, found = _hints(kind), {}
    for each in fields(kind):
        name = each.metadata.get(_ALIAS, each.name)
        if name in value:
            found[each.name] = _decode(hints[each.name], value[name], f"{at}.{name}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise Mismatch(f"{at} has no {name!r}")
    return kind(**found)


def _expect(kind: Any, value: Any, at: str) -> Any:
    if isinstance(value, _NUMBERS.get(kind, kind)) and (kind is bool or not isinstance(value, bool)):
        return value
    raise Mismatch(f"{at} is not a JSON {kind.__name__}")
