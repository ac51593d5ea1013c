"""Keeps text from users and passages from becoming a model's control tokens, such as <|im_end|>.

A chat template is rendered over messages in which stand-ins replace control tokens. The control tokens of the rendered
prompt are then the template's own, and the rest is tokenized as plain text. For an endpoint without a tokenizer here,
an invisible character breaks up whatever looks like a control token. Training and vLLM tokenize with `ChatTokenizer`,
so that a model is served the tokens that it was taught.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

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


def has_control_tokens(text: str) -> bool:
    """Returns whether the text holds something that looks like a control token."""
    return bool(_LOOKS_LIKE_CONTROL.search(text))


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

    def cut(self, text: str) -> list[str]:
        """Returns the text in parts that hold no control token: each is cut after its first character."""
        parts, end = [], 0
        while found := self._pattern.search(text, end):
            parts.append(text[end : found.start() + 1])
            end = found.start() + 1
        return [part for part in (*parts, text[end:]) if part]


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


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Tokens by id, whose text is `str(token)`; those that are `special` are control tokens."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **how: bool) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]: ...


class ChatTokenizer:
    """Turns messages and text into ids in which only the chat template's own control tokens are control tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._control = ControlTokens({str(token): number for number, token in added if token.special})

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of a prompt. A final assistant message is continued, not answered.

        Raises ValueError for messages that the template refuses.
        """
        guarded = self._control.guard(messages)
        if not guarded:
            return list(self._template(messages, tokenize=True, return_dict=False))
        ids: list[int] = []
        for part in guarded.parts(self._template(guarded.messages, tokenize=False)):
            ids += [part] if isinstance(part, int) else self.text(part)
        return ids

    def text(self, text: str) -> list[int]:
        """Returns the ids of plain text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def _template(self, messages: Sequence[Message], **how: bool) -> Any:
        goes_on = messages[-1].role == "assistant"
        try:
            return self._tokenizer.apply_chat_template(
                [{"role": each.role, "content": each.content} for each in messages],
                add_generation_prompt=not goes_on,
                continue_final_message=goes_on,
                **how,
            )
        except Exception as error:  # a template is a program, which may raise Jinja's errors or any other
            raise ValueError(next(iter(str(error).strip().splitlines()), type(error).__name__)) from error
