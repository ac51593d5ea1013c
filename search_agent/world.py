"""The world of an agent: the ports to retriever, searcher and generator, and the judge of its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from search_agent.errors import Failure, GeneratorError, RetrieverError, SearcherError
from search_agent.types import (
    Completion,
    IndexInfo,
    Message,
    ModelInfo,
    Passage,
    Question,
    Rankings,
    Retrieval,
    Sampling,
    Span,
    Verdict,
)

# Tells whether an answer to a question is right. Raises JudgeError.
Judge = Callable[[Question, str], Awaitable[bool]]


class Policy(Protocol):
    """Continues a dialogue of spans. Raises SearcherError.

    Serving renders the spans to text; training feeds token ids and masks the environment's. Nobody edits text that
    the policy wrote.
    """

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion: ...


class Searcher(Policy, Protocol):
    """A policy behind a service. Every method raises SearcherError."""

    async def info(self) -> ModelInfo:
        """Returns the model that is served."""
        ...


class Retriever(Protocol):
    """Ranks passages. Every method raises RetrieverError."""

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        """Returns up to `how.top_k` passages for each query, best first."""
        ...

    async def indexes(self) -> Sequence[IndexInfo]:
        """Returns the indexes that are served, the default one among them."""
        ...


class Embedder(Protocol):
    """Turns texts into the vectors that an index's encoder makes of them. Raises RetrieverError."""

    async def embed(self, texts: Sequence[str], index: str, as_passages: bool) -> list[bytes]:
        """Returns a vector for each text: float32, little-endian, of length 1. The empty index is the default one."""
        ...


class Generator(Protocol):
    """The frozen model that answers. Every method raises GeneratorError."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        """Yields pieces of text; the last one carries the finish reason and the usage."""
        ...

    async def info(self) -> ModelInfo:
        """Returns the model that is served."""
        ...


class Writer(Generator, Protocol):
    """A generator that writes for those who wait for the end, too."""

    async def write(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Returns the whole text, with the finish reason and the usage."""
        ...


@dataclass(frozen=True)
class Whole:
    """A generator whose stream is one piece, so that a text that nobody reads before its end is one message."""

    writer: Writer

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        yield await self.writer.write(messages, sampling)

    async def info(self) -> ModelInfo:
        return await self.writer.info()


class Guard(Protocol):
    """Withholds passages that try to hijack a question from the models, and may refuse answers.

    With `reads_answers` it also checks each answer before the answer is sent.
    """

    @property
    def reads_answers(self) -> bool: ...

    async def check(self, question: str, passages: Sequence[Passage], answer: str = "") -> Verdict:
        """Judges passages that were found or, with an answer, the answer from them. Raises GuardError."""
        ...


class Absent:
    """Stands in for a searcher or generator that is never asked, and raises if it is."""

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        raise SearcherError(Failure.UNSUPPORTED, "there is no searcher here")

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        raise GeneratorError(Failure.UNSUPPORTED, "there is no generator here")

    async def info(self) -> ModelInfo:
        raise GeneratorError(Failure.UNSUPPORTED, "there is no generator here")


_ABSENT = Absent()


@dataclass(frozen=True)
class World:
    """Everything outside an agent.

    Without a judge, an answer is right only if it contains a gold answer. Without a guard, all passages are read.
    """

    retriever: Retriever
    searcher: Policy = _ABSENT
    generator: Generator = _ABSENT
    judge: Judge | None = None
    guard: Guard | None = None

    async def index(self, name: str) -> IndexInfo:
        """Returns the index of that name; the empty name means the default one. Raises RetrieverError."""
        return index_named(await self.retriever.indexes(), name)


def index_named(served: Sequence[IndexInfo], name: str) -> IndexInfo:
    """Returns the index of that name; the empty name means the default one. Raises RetrieverError."""
    for index in served:
        if index.name == name or (not name and index.is_default):
            return index
    names = ", ".join(sorted(index.name for index in served))
    raise RetrieverError(Failure.NOT_FOUND, f"no index {name!r}; there are: {names}", "index")
