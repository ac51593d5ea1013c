"""Reading stored values, which may be damaged or written by another version."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def read(kind: type[T], text: str | bytes) -> T | None:
    """Parses JSON into a value of type `kind`, such as a dataclass. Returns None if it does not fit.

    Callers treat None as if nothing had been stored. Fields that `kind` lacks are ignored.
    """
    from pydantic import ValidationError

    try:
        found: T = _adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type]
    except ValidationError:
        return None
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
