"""A tokenizer of bytes, with ChatML's special tokens and one token that holds the end of a tag and a line break."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

START, END, TAIL = 256, 257, 258
_SPECIAL = {"<|im_start|>": START, "<|im_end|>": END}
_TEXT = {START: b"<|im_start|>", END: b"<|im_end|>", TAIL: b">\n"}


@dataclass(frozen=True)
class Added:
    """An added token, as transformers keeps them."""

    content: str
    special: bool = True

    def __str__(self) -> str:
        return self.content


class ByteTokenizer:
    all_special_ids = (START, END)
    eos_token_id = END
    added_tokens_decoder: ClassVar[Mapping[int, Added]] = {number: Added(text) for text, number in _SPECIAL.items()}

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
        tokenize: bool,
        return_dict: bool = True,
    ) -> object:
        assert add_generation_prompt
        assert not continue_final_message
        assert not (tokenize and return_dict)
        told = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in conversation)
        told += "<|im_start|>assistant\n"
        return self.encode(told, add_special_tokens=False, split_special_tokens=False) if tokenize else told

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        if split_special_tokens:
            return list(text.encode())
        ids: list[int] = []
        for part in re.split(r"(<\|im_start\|>|<\|im_end\|>)", text):
            ids += [_SPECIAL[part]] if part in _SPECIAL else list(part.encode())
        return ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert not clean_up_tokenization_spaces
        kept = [each for each in token_ids if not (skip_special_tokens and each in self.all_special_ids)]
        return b"".join(_TEXT.get(each, bytes([each % 256])) for each in kept).decode(errors="replace")


def written(text: str) -> list[int]:
    """Returns a text as the scripted model writes it: its bytes, and an end of message in place of [END]."""
    body, ended, _ = text.partition("[END]")
    return list(body.encode()) + ([END] if ended else [])
