"""OpenVINO's tokenizer of the embedded SmolLM2, kept in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.generator import kept_tokenizers
from services.generator.gguf_files import embedded_model

TEXT = "Who's there? Ünïcödé 12345\n\n <|im_start|>user"


def behaviour(tokenizer: Any) -> tuple[list[int], str, str, int]:
    """Returns what a pipeline needs of a tokenizer: ids, their text, a prompt, and the end of a text."""
    ids = [int(each) for each in tokenizer.encode(TEXT, add_special_tokens=False).input_ids.data[0]]
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    return ids, tokenizer.decode(ids), prompt, tokenizer.get_eos_token_id()


@pytest.fixture(scope="module")
def expected() -> tuple[list[int], str, str, int]:
    return behaviour(kept_tokenizers.opened(embedded_model(), None))


def test_one_that_was_kept_is_the_same_and_a_damaged_one_is_made_again(
    tmp_path: Path, expected: tuple[list[int], str, str, int]
) -> None:
    cache = tmp_path / "models"
    assert behaviour(kept_tokenizers.opened(embedded_model(), cache)) == expected
    (kept,) = cache.iterdir()
    made = kept.stat().st_ino
    assert behaviour(kept_tokenizers.opened(embedded_model(), cache)) == expected
    assert kept.stat().st_ino == made

    vocabulary = kept / "openvino_tokenizer.bin"
    vocabulary.write_bytes(vocabulary.read_bytes()[:9000])
    assert behaviour(kept_tokenizers.opened(embedded_model(), cache)) == expected
    assert [each.name for each in cache.iterdir()] == [kept.name]
    assert kept.stat().st_ino != made


def test_without_room_to_keep_it_the_model_starts_all_the_same(
    tmp_path: Path, expected: tuple[list[int], str, str, int]
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    assert behaviour(kept_tokenizers.opened(embedded_model(), blocked)) == expected
