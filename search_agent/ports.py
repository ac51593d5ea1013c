"""What the core needs from the outside, as three protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from search_agent.types import Completion, Message, Mode, Passage, Sampling, Span


class Policy(Protocol):
    """The searcher: continues a dialogue of spans.

    Serving renders the spans to text; training feeds token ids and masks the environment's. Text the
    policy wrote is never edited. Raises SearcherError.
    """

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion: ...


class Retriever(Protocol):
    """Ranks passages for each query, best first. Raises RetrieverError.

    With `rerank` above 0, a cross-encoder ranks the mode's best max(rerank, top_k) anew.
    """

    async def search(
        self, queries: Sequence[str], top_k: int, index: str, mode: Mode, rerank: int = 0
    ) -> list[tuple[Passage, ...]]: ...


class Generator(Protocol):
    """The frozen model that answers. Raises GeneratorError."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        """Yields pieces of text; the last one carries the finish reason and the usage."""
        ...
