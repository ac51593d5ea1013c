"""Answers as rows, rows as figures, and methods against each other."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from common import stored
from evaluation.rows import Row, row_of, summarise
from search_agent.errors import JudgeError
from search_agent.grading.answers import chosen
from search_agent.grading.judge import judge_prompt, verdict
from search_agent.grading.statistics import bootstrap, compare, percentile
from search_agent.types import Question
from search_agent_client import Answer, Document
from tests.answers import answer, document, turn

QUESTION = Question("q1", "Who?", ("Marie Curie",), gold_passages=(("gold",),))
OPTIONS = {"A": "zinc", "B": "atrial flutter", "C": "flutter", "D": "an iron"}
CHOICE = Question("m/1", "Which?", ("A: zinc",), options=OPTIONS, choice="A")


TURNS = [turn(["other", "x"]), turn(["gold"], error="neither a query nor a completion")]


def body(text: str = "It was Marie Curie.", documents: Sequence[Document] | None = None, **more: Any) -> Answer:
    if documents is None:
        documents = [document("other", "nothing"), document("gold", "by marie curie!")]
    return answer(text, documents, TURNS, **more)


def test_an_answer_becomes_a_row() -> None:
    row = row_of(QUESTION, "s3", 0, body())
    assert (row.gen_acc, row.span, row.judged, row.exact_match) == (1, 1, None, 0)
    assert row.f1 == pytest.approx(2 * (2 / 4) * 1 / (2 / 4 + 1))
    assert (row.gold_ranks, row.coverage, row.gold_seen, row.answer_rank) == ((2,), 1, 1, 2)
    assert (row.documents, row.searches, row.tokens, row.malformed, row.milliseconds) == (2, 2, 35, 1, 12.5)


def test_a_row_tells_that_passages_were_cut() -> None:
    assert [row_of(QUESTION, "s3", 0, body(**more)).truncated for more in ({}, {"truncated": True})] == [False, True]


def test_what_is_not_known_is_not_zero() -> None:
    row = row_of(replace(QUESTION, gold_passages=()), "s3", 3, body(cached=True, documents=[]))
    assert row.gold_ranks == ()
    assert row.gold_seen is row.milliseconds is None
    assert row.answer_rank == 0
    assert row.budget == 3


def test_all_gold_passages_count_and_those_that_stand_for_one() -> None:
    needed = (("gold",), ("twin", "x"), ("nowhere",))
    made = row_of(replace(QUESTION, gold_passages=needed, groups={"hops": "3"}), "s3", 0, body())
    assert made.gold_ranks == (2, 0, 0)  # x was seen, and not read
    assert (made.coverage, made.gold_seen) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert not made.has_all(2)
    both = row_of(replace(QUESTION, gold_passages=(("gold",), ("other",))), "s3", 0, body())
    assert [both.has_all(k) for k in (1, 2)] == [False, True]
    assert stored.read(Row, json.dumps(asdict(made))) == made


def test_a_row_of_an_older_version_is_no_row() -> None:
    record = asdict(row_of(QUESTION, "s3", 0, body()))
    assert stored.read(Row, json.dumps({key: record[key] for key in record if key != "gold_ranks"})) is None


def test_the_judge_decides_only_where_no_gold_answer_stands() -> None:
    assert row_of(QUESTION, "s3", 0, body("Mme Curie"), judged=True).gen_acc == 1
    assert row_of(QUESTION, "s3", 0, body("Mme Curie"), judged=False).gen_acc == 0
    assert row_of(QUESTION, "s3", 0, body("Mme Curie"), judged=True).span == 0


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A: zinc", "A"), ("a", "A"), ("(B)", "B"), ("B. anything", "B"), ("Option C: flutter", "C"),
        ("Answer: D", "D"), ("It is zinc", "A"), ("atrial flutter", "B"), ("a flutter", "C"), ("Iron", "D"),
        ("zinc or iron", ""), ("", ""), ("none", ""), ("E", ""), ("A zinc deficiency", "A"), ("Because", ""),
    ],
)  # fmt: skip
def test_the_option_that_an_answer_names(answer: str, letter: str) -> None:
    assert chosen(answer, OPTIONS) == letter


def test_multiple_choice_is_scored_by_the_option() -> None:
    # normalising drops the article "a", so that the span "A: zinc" would be found in any answer with zinc
    assert row_of(CHOICE, "s3", 0, body("B: not zinc")).gen_acc == 0
    row = row_of(CHOICE, "s3", 0, body("A", documents=[document("d", "Zinc heals.")]))
    assert (row.gen_acc, row.answer_rank) == (1, 1)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Yes", True),
        ("no.", False),
        ("**Yes**, it does", True),
        ("It says yes", True),
        ("Yes. No contradiction is present.", True),
        ("No, yes would be wrong", False),
        ("**No** (not yes)", False),
        ("Yes\n\nThere is no difference.", True),
    ],
)
def test_the_verdict(reply: str, said: bool) -> None:
    assert verdict(reply) is said


@pytest.mark.parametrize("reply", ["", "perhaps", "Yes and no", "1", "Nobody said yes or no", "Not sure, yes or no"])
def test_no_verdict_is_a_failure(reply: str) -> None:
    with pytest.raises(JudgeError):
        verdict(reply)


def test_the_judge_reads_question_golds_and_answer() -> None:
    prompt = judge_prompt(replace(QUESTION, golds=("a $x", "b")), "an answer")
    assert all(part in prompt for part in ("Who?", "a $x | b", "an answer"))


def test_the_bootstrap_of_a_proportion_is_the_normal_interval() -> None:
    values = [1.0] * 120 + [0.0] * 280
    estimate = bootstrap(values, seed=1, resamples=4000)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert estimate.mean == 0.3
    assert estimate.low == pytest.approx(0.3 - half, abs=0.004)
    assert estimate.high == pytest.approx(0.3 + half, abs=0.004)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)
    assert bootstrap([0.5] * 9, seed=0) == bootstrap([0.5], seed=3)


def row(id: str, gen_acc: float, method: str = "s3", **more: Any) -> Row:
    made = row_of(replace(QUESTION, id=id), method, 0, body(), None)
    return replace(made, gen_acc=gen_acc, **more)


def test_methods_are_compared_on_the_questions_both_answered() -> None:
    ours = [row(f"q{n}", score) for n, score in enumerate([1, 1, 1, 1, 1, 1, 0, 0])] + [row("only ours", 0)]
    theirs = [row(f"q{n}", score) for n, score in enumerate([0, 0, 0, 0, 0, 1, 0, 1])] + [row("only theirs", 1)]
    found = compare(ours, theirs, seed=0)
    assert found is not None
    assert (found.count, found.wins, found.losses) == (8, 5, 1)
    assert found.difference.mean == 0.5
    assert found.difference.low <= 0.5 <= found.difference.high
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)
    same = compare(ours, ours, seed=0)
    assert same is not None
    assert (same.difference.mean, same.difference.low, same.difference.high, same.p) == (0, 0, 0, 1)
    assert compare(ours, [], seed=0) is None


def test_the_pairing_narrows_the_interval() -> None:
    hard = [row(f"q{n}", n % 2) for n in range(100)]
    better = [replace(each, gen_acc=1.0) if each.id == "q0" else each for each in hard]
    found = compare(better, hard, seed=0)
    assert found is not None
    assert found.difference.high - found.difference.low < 0.05


def test_a_summary() -> None:
    rows = [
        row("a", 1, gold_ranks=(1,), answer_rank=1, milliseconds=10.0, documents=3),
        row("b", 0, gold_ranks=(2,), answer_rank=0, milliseconds=None, documents=3),
        row("c", 0, gold_ranks=(0,), answer_rank=5, milliseconds=30.0, documents=6),
        row("d", 1, gold_ranks=(), gold_seen=None, answer_rank=2, milliseconds=20.0, documents=0),
    ]
    found = summarise(rows, seed=0, price=(2.0, 10.0))
    assert found == summarise(rows[::-1], seed=0, price=(2.0, 10.0))
    assert (found.count, found.gen_acc.mean, found.documents, found.malformed) == (4, 0.5, 3, 4)
    assert [each.gold for each in found.recall] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert [each.answer for each in found.recall] == [0.25, 0.5, 0.75, 0.75]
    assert found.cost == pytest.approx((30 * 2 + 5 * 10) / 1e6)
    assert (found.p50_ms, found.p95_ms) == (20, 30)
    assert (found.gold_seen, found.gold_kept, found.coverage) == (1, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert summarise(rows[1:2], seed=0).p50_ms is None


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert [percentile(list(range(1, 101)), p) for p in (50, 95, 100)] == [50, 95, 100]
    assert percentile([7], 95) == 7
