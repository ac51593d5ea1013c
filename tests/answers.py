"""Answers of a gateway as the client reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search_agent.types import FinishReason, StopReason, Timings, Usage
from search_agent_client import Answer, Document, Turn


def document(id: str, text: str = "", turn: int = 1) -> Document:
    return Document(id=id, title=id, text=text, turn=turn)


def turn(retrieved: Sequence[str] = (), selected: Sequence[str] = (), query: str = "q", error: str = "") -> Turn:
    return Turn(query, tuple(retrieved), tuple(selected), {id: id for id in (*retrieved, *selected)}, error)


def answer(text: str, documents: Sequence[Document] = (), turns: Sequence[Turn] = (), **more: Any) -> Answer:
    values: dict[str, Any] = {
        "id": "1", "method": "s3", "question": "q", "stop_reason": StopReason.COMPLETE, "usage": Usage(30, 5, 2),
        "timings_ms": Timings(12.5), "models": ("m@1",), "truncated": False, "citations": (), "cached": False,
        "indexes": ("demo@v1",), "dropped": {}, "cache_key": "", "finish_reason": FinishReason.STOP,
    }  # fmt: skip
    return Answer(answer=text, documents=tuple(documents), turns=tuple(turns), **values | more)
