"""Differences between OpenAI-compatible endpoints: parameters that some refuse, and thinking before an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_agent.tags import Thoughts, after_thoughts

# What to send in place of a parameter that is refused; "" leaves it out, as the endpoint's default is near enough.
_INSTEAD = {"max_tokens": "max_completion_tokens", "temperature": "", "top_p": "", "seed": "", "stream_options": ""}
_ONLY_VALUE = {"temperature": 1}  # to send where a value is refused, and not the parameter
_VALUES = ("value", "only")  # in a refusal, these tell a value from its parameter: "only 1 is allowed"
_REFUSALS = ("unsupported", "not support", "unrecognized", "unknown", "unexpected", "not permitted", "allowed")
_TOO_LONG = ("context length", "context window", "too large", "too long", "exceeds", "at most", "maximum context")


class Dialect:
    """Remembers the parameters that an endpoint refuses. All requests to it share one, to learn each only once."""

    def __init__(self) -> None:
        self._instead: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def fit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the body with parameters that were refused before renamed or left out."""
        named = ((self._instead.get(name, name), self._values.get(name, value)) for name, value in body.items())
        return {name: value for name, value in named if name}

    def learn(self, status: int, reason: str, sent: Mapping[str, Any]) -> bool:
        """Returns whether the endpoint refused a parameter of `sent`, so that it is worth fitting the body again."""
        said = reason.lower()
        if status not in (400, 422) or not any(word in said for word in _REFUSALS):
            return False
        if self.is_too_long(status, reason):
            return False
        refused = [name for name in _INSTEAD if name in sent and name in said]
        for name in refused:
            if any(word in said for word in _VALUES) and sent[name] != _ONLY_VALUE.get(name, sent[name]):
                self._values[name] = _ONLY_VALUE[name]
            else:
                self._instead[name] = _INSTEAD[name]
        return bool(refused)

    @staticmethod
    def is_too_long(status: int, reason: str) -> bool:
        """Returns whether the endpoint refused a request because it asks for more tokens than there is room for."""
        return status in (400, 413, 422) and any(word in reason.lower() for word in _TOO_LONG)


def answer_of(message: Mapping[str, Any]) -> str:
    """Returns the text of a chat message without its thinking, which may leave nothing."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if part.get("type") == "text")
    thoughts = Thoughts()
    return after_thoughts(thoughts.feed(str(content)) + thoughts.rest())
