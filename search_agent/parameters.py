"""A method's parameters: the fields of a frozen dataclass, each with its range and meaning.

Values are checked here and nowhere else, whether they come from a request, a setting or a run's configuration, and
the schema that clients see is made of the same fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")

_JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}  # others read and write an object
# A tenth of a millisecond, which every request would pay.
_types_of: Callable[[type], dict[str, Any]] = cache(get_type_hints)


class BadParameter(ValueError):
    """A parameter that does not exist, or a value that it does not take. `field` is the parameter's name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


def number(default: float, minimum: float, maximum: float, help: str) -> Any:
    """Declares a parameter that takes numbers from `minimum` to `maximum`."""
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum, "help": help})


def option(default: object, help: str) -> Any:
    """Declares a parameter that takes any value of its type."""
    return field(default=default, metadata={"help": help})


def redefault(owner: type, name: str, default: object) -> Any:
    """Declares a base class's parameter again, with another default."""
    (inherited,) = (each for each in fields(owner) if each.name == name)
    return field(default=default, metadata=inherited.metadata)


def with_values(params: T, values: Mapping[str, object]) -> T:
    """Returns the parameters with some values replaced. Raises BadParameter."""
    known = {each.name: each for each in fields(params)}  # type: ignore[arg-type]
    hints = _types_of(type(params))
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise BadParameter(name, f"there is no such parameter; there are {', '.join(known) or 'none'}")
        checked[name] = _checked(name, value, hints[name], known[name].metadata)
    return replace(params, **checked)  # type: ignore[type-var]


def _checked(name: str, value: object, kind: Any, about: Mapping[str, Any]) -> object:
    if choices := _choices(kind):
        if value not in choices:
            raise BadParameter(name, f"must be one of {', '.join(choices)}")
        return choices[choices.index(value)]  # an enumeration's member where the value is its text
    if kind not in _JSON_TYPES:
        try:
            return kind.from_json(value)
        except ValueError as error:
            raise BadParameter(name, str(error)) from None
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)  # JSON does not tell 8.0 from 8
    if type(value) is not kind:
        raise BadParameter(name, f"must be of type {_JSON_TYPES[kind]}")
    if "minimum" in about and not about["minimum"] <= value <= about["maximum"]:
        raise BadParameter(name, f"must be between {about['minimum']} and {about['maximum']}")
    if isinstance(value, str) and not _is_text(value):
        raise BadParameter(name, "must be Unicode text without lone surrogates")
    return value


def schema(params: object) -> dict[str, object]:
    """Returns the JSON Schema of the parameters, with the values in force as defaults."""
    hints = _types_of(type(params))
    properties: dict[str, object] = {}
    for each in fields(params):  # type: ignore[arg-type]
        choices, about = _choices(hints[each.name]), each.metadata
        kind, default = hints[each.name], getattr(params, each.name)
        entry: dict[str, object] = {"enum": list(choices)} if choices else {"type": _JSON_TYPES.get(kind, "object")}
        entry["default"] = default if choices or kind in _JSON_TYPES else default.to_json()
        entry |= {key: about[key] for key in ("minimum", "maximum") if key in about}
        entry["description"] = about["help"]
        properties[each.name] = entry
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _choices(kind: Any) -> tuple[Any, ...]:
    return tuple(kind) if isinstance(kind, type) and issubclass(kind, Enum) else get_args(kind)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
