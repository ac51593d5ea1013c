"""Prompts whose ids are kept between a dialogue's turns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from search_agent.types import Message
from services.generator.kept_prompts import KeptPrompts

ASKED = Message("user", "Who?")


class Chat:
    """Has a token for each character, for two line breaks, and for the edges of a message."""

    def __init__(self, closes: str = "") -> None:
        self.closes = closes
        self.tokenized: list[str] = []

    def chat(self, messages: Sequence[Message]) -> list[int]:
        if messages[-1].content == "refused":
            raise ValueError("roles must alternate")
        ids: list[int] = []
        for message in messages:
            ids += [1, *self.text(message.content + self.closes)]
        return ids if messages[-1].role == "assistant" else [*ids, 1]

    def text(self, text: str) -> list[int]:
        self.tokenized.append(text)
        return [*map(ord, text.replace("\n\n", "¶"))]


def kept(chat: Chat, most: int = 4) -> KeptPrompts:
    prompts = KeptPrompts(chat, most, longest=20)  # type: ignore[arg-type]
    chat.tokenized.clear()
    return prompts


def said(text: str) -> list[Message]:
    return [ASKED, Message("assistant", text)]


def test_only_the_new_text_of_a_dialogue_is_tokenized() -> None:
    chat = Chat()
    prompts = kept(chat)
    first = prompts.chat([ASKED])
    second = prompts.chat(said("a\n"))
    third = prompts.chat(said("a\n\nb"))
    assert chat.tokenized == ["Who?", "a\n", "\nb"]
    assert (first, second) == ([1, *map(ord, "Who?"), 1], [*first, *map(ord, "a\n")])
    assert third == [*second, *map(ord, "\nb")]  # the model has read two tokens for the line breaks, not one
    assert prompts.chat(said("a\n\nb")) == third
    assert len(chat.tokenized) == 3


def test_a_prompt_that_no_model_reads_is_not_kept() -> None:
    chat = Chat()
    prompts = kept(chat)
    for _ in range(2):
        prompts.chat([Message("user", "How long?" * 2)])
        prompts.chat([Message("user", "How long?" * 3)])
    assert [len(text) for text in chat.tokenized] == [18, 27, 27]


def test_another_dialogue_with_the_same_question_is_tokenized_anew() -> None:
    chat = Chat()
    prompts = kept(chat)
    prompts.chat([ASKED])
    prompts.chat(said("a b"))
    assert prompts.chat([ASKED]) == Chat().chat([ASKED])
    prompts.chat(said("a b"))
    assert prompts.chat(said("a c")) == Chat().chat(said("a c"))


def test_the_dialogues_asked_about_last_are_kept() -> None:
    chat = Chat()
    prompts = kept(chat, most=2)
    for text in ("one", "two", "one", "three", "one", "two"):
        prompts.chat([Message("user", text)])
    assert chat.tokenized == ["one", "two", "three", "two"]


def test_a_template_that_ends_an_assistant_message_otherwise_has_every_prompt_tokenized() -> None:
    chat = Chat(closes="!")
    prompts = kept(chat)
    prompts.chat([ASKED])
    assert prompts.chat(said("a")) == Chat(closes="!").chat(said("a"))


def test_what_the_template_refuses_is_not_kept() -> None:
    prompts = kept(Chat())
    for _ in range(2):
        with pytest.raises(ValueError, match="roles must alternate"):
            prompts.chat([Message("user", "refused")])
