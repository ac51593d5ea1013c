"""Values of a training run that change from one step to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

T = TypeVar("T")


def _in_order(values: dict[int, T]) -> dict[int, T]:
    if values and min(values) != 1:
        raise ValueError(f"the first value must hold from step 1, not {min(values)}")
    return dict(sorted(values.items()))


def _from_the_first(value: object) -> object:
    if value == {}:
        raise ValueError("must have a value from step 1")
    return value if isinstance(value, Mapping) else {1: value}


def _constant_alone(values: Mapping[int, T]) -> Mapping[int, T] | T:
    return values if len(values) > 1 else values[1]


# Values by the first training step at which each holds; steps count from 1.
BySteps = Annotated[
    dict[Annotated[int, Field(ge=1)], T], AfterValidator(_in_order), Field(json_schema_extra={"by": "steps"})
]
# The same, where a value that never changes may stand by itself.
Staged = Annotated[BySteps[T], BeforeValidator(_from_the_first), PlainSerializer(_constant_alone)]


def at(step: int, values: Mapping[int, T]) -> T:
    """Returns the value that holds at a training step."""
    return values[max(first for first in values if first <= step)]
