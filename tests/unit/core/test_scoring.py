"""Metrics against hand-made cases and their own laws."""

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_agent.grading.answers import Scoring, chosen, exact_match, f1, normalise, span_match
from search_agent.rag_cache import RagKey

# printable ASCII, with words that the rules are about
ASCII = st.lists(
    st.sampled_from(["a", "An", "THE", "the-", "Nobel", "prize", "1945", "'s"]) | st.text(string.printable, max_size=8)
).map(" ".join)


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


@pytest.mark.parametrize(
    ("answer", "gold", "em"),
    [
        (unicodedata.normalize("NFD", "Café Müller"), "Café Müller", 1),
        ("Women’s Institute", "Women's Institute", 1),
        ("Hawaiʻi", "Hawai'i", 1),
        ("Women´s Institute", "Women's Institute", 1),
        ("1914–1918", "1914-1918", 1),
        ("−5", "-5", 1),
        ("“Blue Rondo”", "Blue Rondo", 1),
        ("«Война и мир»", "Война и мир", 1),
        ("¿Quién?", "quién", 1),
        ("１９１１", "1911", 1),
        ("١٩١١", "1911", 1),
        ("STRASSE", "Straße", 1),
        ("Coca\u00adCola™", "CocaCola", 1),
        ("New\u00a0York", "New York", 1),
        ("北京。", "北京", 1),
        ("「東京タワー」", "東京タワー", 1),
        ("ﾄｳｷｮｳ", "トウキョウ", 1),
        ("答案是一九一一年。", "一九一一年", 0),
        ("1911年に浚渫された", "1911年", 0),
        ("1911年に浚渫された", "1911", 0),
        ("서울입니다", "서울", 0),
        ("กรุงเทพมหานครเป็นเมืองหลวง", "กรุงเทพมหานคร", 0),
        ("Das ist die Straße.", "strasse", 0),
        ("İSTANBUL", "istanbul", 1),
        ("كِتَاب", "كتاب", 1),
        ("שָׁלוֹם", "שלום", 1),
        ("Ⅳ", "IV", 1),
        ("1914—1918…", "1914-1918", 1),
        ("A", "A", 1),
        ("a.", "A", 1),
        ("+", "+", 1),
    ],
)
def test_the_same_answer_in_every_script(answer: str, gold: str, em: float) -> None:
    assert exact_match(answer, [gold]) == em
    assert span_match(answer, [gold]) == 1
    assert (f1(answer, [gold]) == 1) == bool(em)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("19110", "1911"),
        ("１９１１０", "1911"),
        ("北平", "北京"),
        ("กำ", "ก"),  # a vowel sign belongs to its consonant
        ("Мира", "мир"),
        ("a type", "A"),
        ("a", "the"),
        ("-", "+"),
        ("Kräfte", "Krafte"),
        ("", "。"),
    ],
)
def test_other_answers(answer: str, gold: str) -> None:
    assert span_match(answer, [gold]) == exact_match(answer, [gold]) == 0


def test_overlap_counts_the_characters_of_a_script_without_spaces() -> None:
    assert f1("北京市", ["北京"]) == pytest.approx(0.8)


@pytest.mark.parametrize("answer", ["Ｂ", "（Ｂ）", "答案是B。", "选B", "正解はB", "答案：B"])
def test_an_option_named_in_another_script(answer: str) -> None:
    assert chosen(answer, {"A": "一九一一年", "B": "一九五〇年"}) == "B"


@given(ASCII, st.lists(ASCII, max_size=3))
def test_texts_in_ascii_score_as_by_squads_rules(answer: str, golds: list[str]) -> None:
    golds = [gold for gold in golds if normalise(gold, Scoring.SQUAD)]
    for metric in (exact_match, span_match, f1):
        assert metric(answer, golds) == metric(answer, golds, Scoring.SQUAD)
    assert normalise(answer) == normalise(answer, Scoring.SQUAD)


@given(st.text(max_size=50))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(max_size=50), st.lists(st.text(max_size=20), max_size=4))
def test_exact_implies_span_and_full_overlap(answer: str, golds: list[str]) -> None:
    if exact_match(answer, golds):
        assert span_match(answer, golds) == 1
        assert f1(answer, golds) == 1
    assert 0 <= f1(answer, golds) <= 1


def test_every_part_of_the_cache_key_counts() -> None:
    base = {
        "corpus": "demo", "index_version": "v1", "encoder": "e5", "top_k": 3, "documents": 3, "mode": "dense",
        "rerank": 0, "reranker": "r", "filter": "{}", "generator": "m@1", "prompt_version": "p", "max_tokens": 8,
        "question": "q", "options": (),
    }  # fmt: skip
    more = {int: 1, str: "x", tuple: (("A", "yes"),)}
    digests = {RagKey(**base).digest()}  # type: ignore[arg-type]
    for field, value in base.items():
        digests.add(RagKey(**base | {field: value + more[type(value)]}).digest())  # type: ignore[arg-type]
    assert len(digests) == len(base) + 1
    assert all(digest.startswith("rag:demo") for digest in digests)
