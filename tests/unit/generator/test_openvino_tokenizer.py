from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from common.control_tokens import ChatTokenizer
from search_agent.types import Message
from services.generator.openvino_model import _Tokenizer

BEGIN = "<s>"


class Library:
    """A tokenizer of characters, which begins each text with a control token, as its template does."""

    def apply_chat_template(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return BEGIN + "".join(message["content"] for message in messages)

    def encode(self, text: str, add_special_tokens: bool) -> Any:
        rest = text.split(BEGIN)
        ids = [[ord(each) for each in part] for part in rest]
        joined = [*ids[0], *(number for part in ids[1:] for number in (1, *part))]
        return SimpleNamespace(input_ids=SimpleNamespace(data=[[1, *joined] if add_special_tokens else joined]))


def test_a_prompt_begins_once_whatever_its_messages_hold() -> None:
    tokenizer = _Tokenizer(Library(), {BEGIN: 1})
    chat = ChatTokenizer(tokenizer)
    assert chat.chat([Message("user", "a")]) == [1, ord("a")]
    assert chat.chat([Message("user", BEGIN)]) == [1, *map(ord, BEGIN)]
    assert tokenizer.with_control_tokens("a") == [1, ord("a")]
