"""Examples say what they teach, and the adapter learned from them says it too."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from common import run_config
from learning.warm_start.supervised import read_card, read_spans
from learning.warm_start.teach import write
from search_agent.types import UNTAUGHT, Author, ModelCard, Span

RUN = run_config.load("smollm2-demo")
EXAMPLE = [Span(Author.ENVIRONMENT, "question"), Span(Author.POLICY, "answer")]


def test_examples_carry_the_card_of_the_run_to_come(tmp_path: Path) -> None:
    write([EXAMPLE, EXAMPLE], tmp_path / "examples.jsonl", RUN.card((0, 0.5)))
    assert read_spans(tmp_path / "examples.jsonl") == [EXAMPLE, EXAMPLE]
    card = read_card(tmp_path / "examples.jsonl")
    assert (card.method, card.data) == ("s3", ("qa_train.jsonl.gz 0-0.5",))
    assert RUN.method.as_taught(card) == RUN.method


def test_a_question_set_of_a_data_set_keeps_its_name() -> None:
    assert run_config.load("s3-8-3-3").card().data == ("nq/train 0-1", "hotpotqa/train 0-1")


def test_files_of_examples_may_be_joined_where_they_teach_the_same_method(tmp_path: Path) -> None:
    file = tmp_path / "joined.jsonl"
    dense, hybrid = ({"max_turns": 1, "mode": mode} for mode in ("dense", "hybrid"))
    cards = [ModelCard("s3", dense, data=("a",)), ModelCard("s3", hybrid, data=("b", "a"))]
    file.write_text("".join(json.dumps({"card": asdict(card)}) + "\n" for card in cards))
    assert read_card(file) == ModelCard("s3", {"max_turns": 1}, data=("a", "b"))
    with file.open("a") as more:
        more.write(json.dumps({"card": asdict(replace(cards[0], method="search_r1"))}) + "\n")
    with pytest.raises(ValueError, match=r"joined\.jsonl:3: teaches another method or prompt: 'search_r1' after 's3'"):
        read_card(file)


def test_examples_of_an_earlier_form_have_no_card(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text(json.dumps({"spans": [["environment", "x"], ["policy", "y"]]}) + "\n")
    assert (len(read_spans(file)), read_card(file)) == (1, UNTAUGHT)
