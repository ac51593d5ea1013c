"""Servers that speak /retrieve, the protocol of s3, Search-R1 and verl; a gateway of ours speaks it too."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common.passages import NoText, passage_of
from search_agent.types import Passage
from services.retriever.sources.config import RetrieveConfig
from services.retriever.sources.server import Server
from services.retriever.sources.text import cleaned, line

_LARGEST = 3e38  # score that the contract's floats hold


class RetrieveSource:
    """Asks for all queries in one call."""

    def __init__(self, server: Server, config: RetrieveConfig) -> None:
        self._server, self._url = server, config.url

    async def search(self, queries: Sequence[str], top_k: int) -> list[tuple[Passage, ...]]:
        """Returns up to `top_k` passages for each query, in the server's order. Raises RetrieverError."""
        asked = {"queries": [*queries], "topk": top_k, "return_scores": True}
        async with self._server.in_time():
            answer = await self._server.json("POST", self._url, json=asked)
        ranked = answer.get("result") if isinstance(answer, dict) else None
        if not isinstance(ranked, list) or len(ranked) != len(queries):
            raise self._server.failed(f'did not answer with a "result" that has a list for each of {len(queries)}')
        try:
            return [passages_of(items, top_k) for items in ranked]
        except ValueError as error:
            raise self._server.failed(f"answered with a document that is no passage: {error}") from error


def passages_of(items: Any, top_k: int) -> tuple[Passage, ...]:
    """Returns one query's passages; those without a text are left out. Raises ValueError.

    An item is a document, or {"document", "score"}. A passage without a score gets 1 / rank.
    """
    if not isinstance(items, list):
        raise ValueError("not in a list")
    found: list[Passage] = []
    for rank, item in enumerate(items[:top_k], start=1):
        scored: dict[str, Any] = item if isinstance(item, dict) and "document" in item else {"document": item}
        try:
            passage = _passage(scored["document"])
        except NoText:
            continue
        found.append(replace(passage, score=_score(scored.get("score"), 1 / rank)))
    return tuple(found)


def _score(given: Any, otherwise: float) -> float:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return float(given) if is_number and abs(given) < _LARGEST else otherwise


def _passage(document: Any) -> Passage:
    """Returns a document as a passage. Its id is a hash of the content where it has none."""
    fields = {"contents": document} if isinstance(document, str) else document
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    # Metadata is left out: filters cannot reach it, and it may have any shape.
    fields = {name: value for name, value in fields.items() if value is not None and name != "metadata"}
    named = str(fields.get("id", fields.get("_id", ""))).strip()
    passage = passage_of(fields if named else {**fields, "id": "none"})
    title, text = line(passage.title), cleaned(passage.text)
    if not text:
        raise NoText("text", "only characters that are not printed")
    digest = hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16]
    return replace(passage, id=(line(passage.id) if named else "") or digest, title=title, text=text)
