"""Reads the messages of a request: instructions, what was said before, and the question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from search_agent.types import QUESTION_CHARS, Message
from services.gateway.problems import BadField

_INSTRUCTIONS = ("system", "developer")
_TEXTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class Conversation:
    """`place` is where the request has the question."""

    instructions: str
    history: tuple[Message, ...]
    question: str
    place: str


def alone(question: str, place: str, instructions: str = "", instructions_at: str = "instructions") -> Conversation:
    """Returns a conversation that is a question alone, which the request has at `place`. Raises BadField."""
    told = _bounded(instructions, instructions_at, least=0)
    return Conversation(told, (), _bounded(question.strip(), place), place)


def read(messages: Mapping[str, Mapping[str, Any]], place: str, instructions: str = "") -> Conversation:
    """Returns the conversation of messages with `role` and `content`, by where they are in the request's `place`.

    The last message is the question, and must be the user's. System messages join the instructions. Raises BadField.
    """
    texts = [(_role(message, at), _text(message, at)) for at, message in messages.items()]
    if not texts or texts[-1][0] != "user":
        raise BadField(place, "must end in a message of the user, the question")
    *before, (_, question) = texts
    system = [text for role, text in texts if role in _INSTRUCTIONS]
    told = "\n\n".join(filter(None, [instructions, *system]))
    asked = alone(question, f"{[*messages][-1]}.content", told, place if system else "instructions")
    return replace(
        asked, history=tuple(Message(role, text) for role, text in before if role not in _INSTRUCTIONS and text)
    )


def _role(message: Mapping[str, Any], place: str) -> str:
    role = message.get("role")
    if role not in ("user", "assistant", *_INSTRUCTIONS):
        raise BadField(f"{place}.role", "must be system, developer, user or assistant; tools are not supported")
    if message.get("tool_calls") or message.get("function_call"):
        raise BadField(f"{place}.tool_calls", "is not supported")
    return str(role)


def _text(message: Mapping[str, Any], place: str) -> str:
    content = message.get("content")
    if content is None:
        content = ""
    if isinstance(content, str):
        return _readable(content.strip(), f"{place}.content")
    if not isinstance(content, list):
        raise BadField(f"{place}.content", "must be a text or a list of parts")
    parts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXTS:
            raise BadField(f"{place}.content[{number}].type", f"is {kind!r}; only text is read")
        if not isinstance(part.get("text"), str):
            raise BadField(f"{place}.content[{number}].text", "must be a text")
        parts.append(part["text"])
    return _readable("\n".join(parts).strip(), f"{place}.content")


def _bounded(text: str, place: str, least: int = 1) -> str:
    if not least <= len(text) <= QUESTION_CHARS:
        raise BadField(place, f"must have {least} to {QUESTION_CHARS} characters, and has {len(text)}")
    return _readable(text, place)


def _readable(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadField(place, "must be Unicode text without lone surrogates") from None
    return text
