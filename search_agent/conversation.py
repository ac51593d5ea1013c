"""Rewrites the last question of a conversation so that it can be searched for by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from search_agent import prompts, tags
from search_agent.errors import BoundaryError, Failure
from search_agent.types import QUESTION_CHARS, Author, Completion, Message, Sampling, Span
from search_agent.world import Policy, Writer

Write = Callable[[str, Sampling], Awaitable[Completion]]

_SAMPLING = Sampling(max_tokens=96)
_HISTORY_CHARS, _LEAST_CHARS = 4000, 200
_SPEAKERS = {"user": "User", "assistant": "Assistant"}


def by_searcher(searcher: Policy) -> Write:
    """Returns the searcher as a writer of questions."""

    async def write(prompt: str, sampling: Sampling) -> Completion:
        return await searcher.complete([Span(Author.ENVIRONMENT, prompt)], sampling)

    return write


def by_generator(generator: Writer) -> Write:
    """Returns the generator as a writer of questions."""

    async def write(prompt: str, sampling: Sampling) -> Completion:
        return await generator.write([Message("user", prompt)], sampling)

    return write


async def condense(history: Sequence[Message], question: str, write: Write) -> Completion:
    """Returns a completion whose text is the question, rewritten so that it needs none of the earlier messages.

    A model that writes nothing leaves the question as it is. If the messages do not fit, the oldest are left out.
    Raises BoundaryError.
    """
    chars = _HISTORY_CHARS
    while True:
        prompt = prompts.render("condense", history=_rendered(history, chars), question=tags.as_text(question))
        try:
            completion = await write(prompt, _SAMPLING)
        except BoundaryError as error:
            if error.failure is not Failure.TOO_LONG or chars <= _LEAST_CHARS:
                raise
            chars //= 2
            continue
        lines = [line.strip() for line in tags.after_thoughts(completion.text).splitlines()]
        rewritten = next(filter(None, lines), question)
        return replace(completion, text=rewritten[:QUESTION_CHARS])


def _rendered(history: Sequence[Message], chars: int) -> str:
    """Returns the end of the conversation, one line per message."""
    lines = (f"{_SPEAKERS[each.role]}: {' '.join(each.content.split())}" for each in history)
    return tags.as_text("\n".join(lines)[-chars:])
