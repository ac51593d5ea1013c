from __future__ import annotations

import multiprocessing
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from services.retriever.token_ids import in_processes, token_ids

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


def test_processes_make_the_same_ids_and_this_one_does_if_they_die() -> None:
    from bench.encoder_folder import learned

    tokenizer = learned(["one two three"], words=60, max_tokens=64)
    tokenizer.truncation_side = "left"
    here = token_ids(tokenizer, 20)
    there = in_processes(here, 2)
    made = there(TEXTS)
    assert [list(map(int, each)) for each in made] == here(TEXTS)
    assert isinstance(made[0], np.ndarray)  # made there
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        worker.kill()
        worker.join()
    with capture_logs() as said:
        assert there(TEXTS) == there(TEXTS) == here(TEXTS)
    assert [line["log_level"] for line in said] == ["warning"]  # once


def test_what_stays_in_this_process() -> None:
    from bench.encoder_folder import learned

    tokenizer = learned(["one two three"], words=60, max_tokens=64)
    fast, slow = token_ids(tokenizer, 20), token_ids(Slow(tokenizer), 20)
    assert in_processes(slow, 3) is slow
    assert in_processes(fast, 1) is fast


@pytest.mark.parametrize("killed", [True, False])
def test_processes_end_with_the_one_that_they_work_for(killed: bool) -> None:
    works = [sys.executable, "-m", "tests.unit.retriever.tokenizing"]
    pipe = subprocess.PIPE
    with subprocess.Popen(works, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "tokenizing\n"
        if killed:
            parent.kill()
        _, said = parent.communicate(timeout=20)  # returns when the last process that holds the output has ended
    assert killed or (parent.returncode, said) == (0, "")
