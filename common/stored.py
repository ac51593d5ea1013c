"""Values read back from where they were stored, which may be damaged or written by another version."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def read(kind: type[T], text: str | bytes) -> T | None:
    """Returns the value of type `kind` (a dataclass, say) that `text` is the JSON of, or None if it is not one.

    None means: as if nothing had been stored. Fields that `kind` does not have are ignored.
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
