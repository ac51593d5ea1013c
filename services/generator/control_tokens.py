"""Keeps text from users and passages from becoming a model's control tokens, such as <|im_end|>.

An engine with a tokenizer renders its chat template over messages in which stand-ins replace control tokens. The
control tokens of the rendered prompt are then the template's own, and the rest is tokenized as plain text. For an
endpoint without a tokenizer here, an invisible character breaks up whatever looks like a control token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from search_agent.types import Message

_JOINER = "\u200d"  # zero width and not white space; inside a control token it gives other tokens
_FIRST_MARK, _LAST_MARK = 0xE000, 0xF8FF  # private-use characters, which no tokenizer or template has

# Control tokens of common model families. The core handles its own, such as Search-o1's <|begin_search_query|>.
_LOOKS_LIKE_CONTROL = re.compile(
    r"<\|(?!begin_search_|end_search_)[^<>|\s]{1,40}\|>"
    r"|<｜[^<>｜\s]{1,40}｜>"
    r"|</?s>|<<?/?SYS>>?"
    r"|<(?:bos|eos|pad|unk|mask|cls|sep|eod|eot|start_of_turn|end_of_turn|fim_\w{1,20}|unused\d{1,4}|extra_id_\d{1,4})>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_CONTENT|TOOL_RESULTS|CLS|SEP|PAD|UNK|g?MASK)\]"
)


def neutralised(text: str) -> str:
    """Returns the text with everything that looks like a control token broken up; it reads the same."""
    return _LOOKS_LIKE_CONTROL.sub(lambda found: found[0][0] + _JOINER + found[0][1:], text)


class ControlTokens:
    """A model's control tokens, ids by text."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = dict(ids)
        longest_first = sorted(map(re.escape, self._ids), key=len, reverse=True)
        self._pattern = re.compile("|".join(longest_first) or "(?!)")

    def guard(self, messages: Sequence[Message]) -> Guarded | None:
        """Returns the messages with stand-ins, or None if no content holds a control token."""
        contents = [message.content for message in messages]
        found = list(dict.fromkeys(hit for content in contents for hit in self._pattern.findall(content)))
        if not found:
            return None
        said = "".join(contents)
        unused = (chr(code) for code in range(_FIRST_MARK, _LAST_MARK) if chr(code) not in said)
        opens, closes = next(unused), next(unused)
        stand_ins = {text: f"{opens}{number}{closes}" for number, text in enumerate(found)}
        guarded = [
            replace(message, content=self._pattern.sub(lambda hit: stand_ins[hit[0]], message.content))
            for message in messages
        ]
        return Guarded(tuple(guarded), self, stand_ins)

    def split(self, prompt: str) -> list[str | int]:
        """Returns the texts between control tokens, and the ids of the control tokens, in order."""
        parts: list[str | int] = []
        end = 0
        for found in self._pattern.finditer(prompt):
            parts += [prompt[end : found.start()], self._ids[found[0]]]
            end = found.end()
        return [part for part in (*parts, prompt[end:]) if part != ""]


class Guarded:
    """Messages to render, and the way to read the rendered prompt."""

    def __init__(self, messages: tuple[Message, ...], control: ControlTokens, stand_ins: Mapping[str, str]) -> None:
        self.messages = messages
        self._control, self._stand_ins = control, stand_ins

    def parts(self, prompt: str) -> list[str | int]:
        """Returns plain texts and ids of the template's control tokens, in order."""
        return [part if isinstance(part, int) else self._restored(part) for part in self._control.split(prompt)]

    def _restored(self, text: str) -> str:
        for original, stand_in in self._stand_ins.items():
            text = text.replace(stand_in, original)
        return text
