"""Server-Sent Events."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel


def sse(name: str, data: Any) -> str:
    """One event; `data` is plain values and models."""

    def plain(value: Any) -> Any:
        return value.model_dump() if isinstance(value, BaseModel) else str(value)

    return f"event: {name}\ndata: {json.dumps(data, default=plain, ensure_ascii=False)}\n\n"
