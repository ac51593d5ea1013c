"""Metrics against hand-made cases and their own laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_agent.grading.answers import exact_match, f1, normalise, span_match
from search_agent.rag_cache import RagKey


def test_normalise() -> None:
    assert normalise("The  Nobel-Prize, (an) A.") == "nobelprize"
    assert normalise("Łódź's") == "łódźs"


@pytest.mark.parametrize(
    ("answer", "golds", "em", "span", "overlap"),
    [
        ("The Nobel Prize.", ["Nobel Prize"], 1, 1, 1),
        ("It was the Nobel Prize in 1903", ["Nobel Prize"], 0, 1, 0.5),
        ("Nobel Prizes", ["Nobel Prize"], 0, 0, 0.5),
        ("in 19450", ["1945"], 0, 0, 0),
        ("x", ["y", "X"], 1, 1, 1),
        ("", ["a"], 0, 0, 0),
        ("anything", ["the"], 0, 0, 0),
        ("anything", [], 0, 0, 0),
    ],
)
def test_metrics(answer: str, golds: list[str], em: float, span: float, overlap: float) -> None:
    assert exact_match(answer, golds) == em
    assert span_match(answer, golds) == span
    assert f1(answer, golds) == pytest.approx(overlap)


@given(st.text(max_size=50), st.lists(st.text(max_size=20), max_size=4))
def test_exact_implies_span_and_full_overlap(answer: str, golds: list[str]) -> None:
    if exact_match(answer, golds):
        assert span_match(answer, golds) == 1
        assert f1(answer, golds) == 1
    assert 0 <= f1(answer, golds) <= 1


def test_every_part_of_the_cache_key_counts() -> None:
    base = {
        "corpus": "demo", "index_version": "v1", "encoder": "e5", "top_k": 3, "documents": 3, "mode": "dense",
        "rerank": 0, "reranker": "r", "generator": "m@1", "prompt_version": "p", "max_tokens": 8,
        "question": "q", "options": (),
    }  # fmt: skip
    more = {int: 1, str: "x", tuple: (("A", "yes"),)}
    digests = {RagKey(**base).digest()}  # type: ignore[arg-type]
    for field, value in base.items():
        digests.add(RagKey(**base | {field: value + more[type(value)]}).digest())  # type: ignore[arg-type]
    assert len(digests) == len(base) + 1
    assert all(digest.startswith("rag:demo") for digest in digests)
