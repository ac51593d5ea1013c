"""Filters by the metadata of passages: conditions on keys, all of which must hold.

The JSON form is an object by key. A plain value must be equal; an object holds operators:
{"source": "wiki", "lang": {"in": ["en", "de"]}, "year": {"gte": 1990, "lte": 1999}, "doi": {"exists": true}}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, NoReturn

Scalar = str | int | float | bool
MAX_CONDITIONS, MAX_VALUES, MAX_CHARS = 32, 256, 1000
LARGEST_NUMBER = 2**53  # beyond it, not every whole number is a floating-point one


class Operator(StrEnum):
    IN = "in"
    AT_LEAST = "gte"
    AT_MOST = "lte"
    EXISTS = "exists"


class Typed(NamedTuple):
    """A value that sorts by its type first, and under which 1, "1" and true differ."""

    rank: int  # truth values, numbers, texts
    value: Any

    @classmethod
    def of(cls, value: Scalar) -> Typed:
        return cls(0 if isinstance(value, bool) else 2 if isinstance(value, str) else 1, value)


def typed(held: Any) -> list[Typed]:
    """Returns the values that a key of metadata holds: the items of a list, or the one value."""
    return [Typed.of(each) for each in (held if isinstance(held, list | tuple) else [held])]


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a key.

    `values` are the alternatives of IN, the bound of AT_LEAST or AT_MOST, or whether the key EXISTS. A key that holds
    a list meets it if one of the items does; a value of another type than the bound's never does.
    """

    key: str
    operator: Operator
    values: tuple[Typed, ...]

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """Tells whether a passage with this metadata meets it."""
        if self.operator is Operator.EXISTS:
            return (self.key in metadata) is self.values[0].value
        items = typed(metadata[self.key]) if self.key in metadata else []
        if self.operator is Operator.IN:
            return any(item in self.values for item in items)
        (bound,) = self.values
        same = [item for item in items if item.rank == bound.rank]
        return any(item >= bound if self.operator is Operator.AT_LEAST else item <= bound for item in same)


@dataclass(frozen=True, slots=True)
class Filter:
    """A conjunction of conditions, in the order of keys and operators. Without conditions it lets everything pass."""

    conditions: tuple[Condition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.conditions)

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Tells whether a passage with this metadata passes."""
        return all(condition.holds(metadata) for condition in self.conditions)

    @classmethod
    def from_json(cls, value: object) -> Filter:
        """Returns the filter of a JSON object. Raises ValueError, which names the key."""
        if not isinstance(value, Mapping):
            raise ValueError('must be an object by key, such as {"year": {"gte": 1990}}')
        found = [condition for key, asked in value.items() for condition in _conditions(key, asked)]
        if len(found) > MAX_CONDITIONS:
            raise ValueError(f"{len(found)} conditions, at most {MAX_CONDITIONS} are allowed")
        return cls(tuple(sorted(found, key=lambda each: (each.key, each.operator))))

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object that `from_json` reads as this filter."""
        written: dict[str, dict[str, Any]] = {}
        for each in self.conditions:
            first, *more = (typed.value for typed in each.values)
            asked = written.setdefault(each.key, {})
            asked[each.operator.value] = [first, *more] if each.operator is Operator.IN else first
        return written


EVERYTHING = Filter()


def _conditions(key: object, asked: object) -> Iterable[Condition]:
    if not isinstance(key, str) or not key or len(key) > MAX_CHARS:
        raise ValueError(f"a key is a text of 1 to {MAX_CHARS} characters, not {str(key)[:80]!r}")
    if not isinstance(asked, Mapping):
        yield Condition(key, Operator.IN, (_value(key, asked),))
        return
    if not asked:
        _refuse(key, f"needs an operator: {', '.join(Operator)}")
    for name, value in asked.items():
        if name not in [*Operator]:
            _refuse(key, f"unknown operator {str(name)[:80]!r}; there are {', '.join(Operator)}")
        yield Condition(key, Operator(name), _values(key, Operator(name), value))


def _values(key: str, operator: Operator, value: object) -> tuple[Typed, ...]:
    if operator is Operator.IN:
        if not isinstance(value, Sequence) or isinstance(value, str) or not 1 <= len(value) <= MAX_VALUES:
            _refuse(key, f'"in" takes a list of 1 to {MAX_VALUES} values')
        return tuple(sorted({_value(key, each) for each in value}))
    if operator is Operator.EXISTS:
        if not isinstance(value, bool):
            _refuse(key, '"exists" takes true or false')
        return (Typed.of(value),)
    if isinstance(value, bool):
        _refuse(key, f'"{operator}" takes a number or a text')
    return (_value(key, value),)


def _value(key: str, value: object) -> Typed:
    if isinstance(value, list | tuple):
        _refuse(key, 'holds a list; {"in": [...]} asks for one of several values')
    if not isinstance(value, Scalar):
        _refuse(key, "takes a text, a number, a truth value or an object of operators")
    if problem := problem_of(value):
        _refuse(key, problem)
    return Typed.of(value)


def problem_of(value: Scalar) -> str:
    """Returns why neither a filter nor metadata may hold the value, or an empty text if they may."""
    if isinstance(value, str):
        if len(value) > MAX_CHARS:
            return f"its text is longer than {MAX_CHARS} characters"
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            return "its text holds half of a surrogate pair"
    elif not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:  # nor is NaN between them
        return "its number is beyond 2^53"
    return ""


def _refuse(key: str, reason: str) -> NoReturn:
    raise ValueError(f"{key[:80]!r}: {reason}")
