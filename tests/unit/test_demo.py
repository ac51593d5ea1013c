"""`make demo` says what happened, whoever was right."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from deploy.demo import compared, demo_questions
from search_agent.types import Question
from search_agent_client import Answer
from tests.answers import answer, document, turn

ROOT = Path(__file__).parents[2]
QUESTION = Question("q", "Where does the river begin?", ("Alps",), (("river",), ("spring", "source")))


def response(text: str, *turns: tuple[list[str], list[str]]) -> Answer:
    documents = [document(id) for _, kept in turns for id in kept]
    return answer(text, documents, [turn(retrieved, kept) for retrieved, kept in turns])


def test_a_second_search_that_found_what_was_missing_is_told() -> None:
    ours = response("in the Alps", (["river", "town"], ["river"]), (["river", "source"], ["source"]))
    rag = response("a town", (["river", "town"], ["river", "town"]))
    assert compared(QUESTION, ours, rag) == [
        "s3        : in the Alps  (right)",
        "naive RAG : a town  (wrong), 2 passages",
        "gold      : Alps",
        "evidence  : 2 of 2 gold passages kept; search 1 found 1, search 2 found 1 more",
    ]


def test_a_search_that_failed_is_told_too() -> None:
    ours = response("a town", (["town"], ["town"]), (["town", "river"], []))
    rag = response("the Alps", (["spring"], ["spring"]))
    assert compared(QUESTION, ours, rag) == [
        "s3        : a town  (wrong)",
        "naive RAG : the Alps  (right), 1 passage",
        "gold      : Alps",
        "evidence  : 0 of 2 gold passages kept; search 1 found 0, search 2 found 1 more",
    ]


def test_a_question_without_gold_answers_gets_no_verdict() -> None:
    ours = response("the Alps", (["river"], ["river"]))
    assert compared(Question("", "Where?"), ours, ours) == [
        "s3        : the Alps",
        "naive RAG : the Alps, 1 passage",
        "gold      : unknown",
    ]


def test_the_demo_asks_for_one_passage_and_for_two() -> None:
    assert {len(question.gold_passages) for question in demo_questions()} == {1, 2}


def test_a_question_reaches_the_demo_as_it_was_typed(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n')
    python.chmod(0o755)
    asked = """Who gave Dante's Comedy the name "Divine", and `date`?"""
    command = ["make", "--silent", "-o", ".venv/.local", "demo", f"BIN={tmp_path}", f"QUESTION={asked}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.splitlines()[-1] == asked
