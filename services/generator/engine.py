"""The engine of a generator service: its requests and its protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from search_agent.errors import Failure, GeneratorError
from search_agent.types import Completion, Message, ModelInfo, Sampling
from services.generator.models import BASE, Models


def invalid(field: str, message: str) -> GeneratorError:
    """Returns the error of a request whose field is at fault."""
    return GeneratorError(Failure.INVALID, message, field)


@dataclass(frozen=True, slots=True)
class Request:
    """One text to write: after `messages`, or after `prompt` as it is. Exactly one of the two is set.

    A final assistant message is continued, not answered. `model` is one of the engine's names.
    """

    sampling: Sampling
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    model: str = BASE

    @property
    def field(self) -> str:
        """The name of the field that is set, for errors."""
        return "messages" if self.messages else "prompt"

    def room(self, context_tokens: int) -> int:
        """Returns the most tokens that the prompt may have. The text to write gets what it asks for, at most half."""
        return context_tokens - min(self.sampling.max_tokens, context_tokens // 2)

    def check(self, prompt_tokens: int, context_tokens: int) -> None:
        """Raises GeneratorError for a prompt that leaves too little room to write."""
        room = self.room(context_tokens)
        if prompt_tokens > room:
            message = f"{prompt_tokens} tokens do not fit the {room} that a context of {context_tokens} has for them"
            raise GeneratorError(Failure.TOO_LONG, message, self.field, prompt_tokens / room)


class Engine(Protocol):
    """A base model and its adapters by name. Every method raises GeneratorError."""

    @property
    def models(self) -> Models:
        """The models that take new requests. Their names never change."""
        ...

    def stream(self, request: Request) -> AsyncGenerator[Completion, None]:
        """Yields the text as it is written. Closing the iterator stops the work at once."""
        ...

    def described(self, name: str) -> ModelInfo:
        """Returns the model under a name, whether or not the engine answers now."""
        ...

    async def info(self, name: str) -> ModelInfo:
        """Returns the model under a name, as long as the engine can be used."""
        ...

    async def load(self, name: str, path: str, adapter: str) -> ModelInfo:
        """Puts another adapter (empty: none) under a name, and another base model (empty: the same) below it.

        Requests under way finish on the old models. If it fails, the old models stay.
        """
        ...

    async def close(self) -> None: ...
