from __future__ import annotations

from typing import Any

import pytest

from services.retriever.token_ids import token_ids

pytest.importorskip("transformers")

TEXTS = ["", "one", "one two, three" * 40, "[SEP] one [MASK]", "\0", "öne " * 3, "x" * 20_000]


class Slow:
    """A tokenizer without a Rust one below."""

    def __init__(self, fast: Any) -> None:
        self._fast = fast

    def __call__(self, texts: list[str], **options: Any) -> Any:
        return self._fast(texts, **options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_ids_are_those_of_the_library(side: str) -> None:
    from bench.encoder_folder import learned

    tokenizer = learned(["one two three"], words=60, max_tokens=64)
    tokenizer.truncation_side = side
    theirs = tokenizer(TEXTS, truncation=True, max_length=20, split_special_tokens=True)["input_ids"]
    short, long = token_ids(tokenizer, 20), token_ids(tokenizer, 30)
    assert short(TEXTS) == theirs
    assert max(map(len, long(TEXTS))) == 30  # one limit does not change the other
    assert short(TEXTS) == theirs
    assert token_ids(Slow(tokenizer), 20)(TEXTS) == theirs
    assert short([]) == []


def test_a_text_that_spells_special_tokens_has_none_but_those_around_it() -> None:
    from bench.encoder_folder import learned

    tokenizer = learned(["one two three"], words=60, max_tokens=64)
    for ids in (token_ids(each, 30) for each in (tokenizer, Slow(tokenizer))):
        (found,) = ids([f"one {' '.join(tokenizer.all_special_tokens)} two"])
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # signs that it has not learned
        assert not special & {*found[1:-1]}
