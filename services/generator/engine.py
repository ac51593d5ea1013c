"""What an engine is to the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from search_agent.types import FinishReason, Message, Sampling


@dataclass(frozen=True, slots=True)
class Request:
    """One text to write: after `messages`, or after `prompt` as it is. Exactly one of the two is set.

    A final assistant message is continued, not answered.
    """

    sampling: Sampling
    messages: tuple[Message, ...] = ()
    prompt: str = ""

    @property
    def field(self) -> str:
        """The one that is set, for errors."""
        return "messages" if self.messages else "prompt"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the text. Only the last has a finish reason; it also has the counts (tokens) and `stop`.

    `stop` is the stop string that ended the text; empty where none did or the engine does not tell.
    """

    text: str
    model: str
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    stop: str = ""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """`model` is "name@version". `context_tokens` is what one request may hold, 0 where not known.

    `path` and `adapter` are what `load` takes to load the same again, empty where the engine has no files.
    """

    model: str
    engine: str
    context_tokens: int
    grammar: bool
    path: str = ""
    adapter: str = ""


class Engine(Protocol):
    """One language model. Every method raises GeneratorError."""

    def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Yields the text as it is written. Closing the iterator stops the work at once."""
        ...

    async def info(self) -> EngineInfo:
        """Answers only while the engine can be used."""
        ...

    async def load(self, path: str, adapter: str) -> EngineInfo:
        """Puts another model (empty: the same) and LoRA adapter (empty: none) in place.

        Requests under way finish on the old model. If it fails, the old model stays.
        """
        ...

    async def close(self) -> None: ...
