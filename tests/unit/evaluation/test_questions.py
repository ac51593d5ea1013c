"""Question sets by name, from files and from MIRAGE, and what is wrong with bad ones."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import records
from evaluation.errors import BadQuestion, EvaluateProblem
from evaluation.question_records import line_of, question_of
from evaluation.questions import SETS, load, name_of, part, pick, sources
from search_agent.grading.answers import span_match
from search_agent.types import Question
from services.gateway.schemas import AnswerRequest

GOOD = {"id": "a", "question": "Who?", "golden_answers": ["x"]}
SEVERAL = {"passage_ids": ["p1", "p2"], "same_title_ids": {"p1": ["p3"]}, "dataset": "musique", "hops": 2}
CHOICE = {"id": "c", "question": "Which?", "options": {"A": "yes", "B": "no"}, "choice": "B"}
MIRAGE = {
    "medqa": {"0000": {"question": "Which?", "options": {"A": "yes", "B": "no"}, "answer": "B"}},
    "pubmedqa": {"17": {"question": "Does it?", "options": {"A": "yes"}, "answer": "A", "PMID": [1]}},
}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in records))
    return path


def test_a_file(tmp_path: Path) -> None:
    linked = GOOD | {"id": 7, "metadata": {"passage_id": "p1", "title": "T"}}
    several = GOOD | {"id": "c", "metadata": SEVERAL}
    path = write(tmp_path / "q.jsonl", GOOD, "", linked, several)
    found = load(str(path))
    assert [(each.id, each.gold_passages) for each in found] == [
        ("a", ()), ("7", (("p1",),)), ("c", (("p1", "p3"), ("p2",))),
    ]  # fmt: skip
    assert [each.groups for each in found] == [{}, {}, {"dataset": "musique", "hops": "2"}]
    assert (found[0].text, found[0].golds) == ("Who?", ("x",))
    packed = tmp_path / "q.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert load(str(packed)) == found


def test_the_demo_questions() -> None:
    found = load("data/demo/qa_dev.jsonl.gz")
    assert len(found) == 6818
    assert found[0].gold_passages == (("sq-fb7bf09d07",),)


@pytest.mark.parametrize(
    ("fields", "golds"),
    [
        ({"golden_answers": [1911]}, ("1911",)),
        ({"golden_answers": [2.5, "x"]}, ("2.5", "x")),
        ({"golden_answers": "1911"}, ("1911",)),
        ({"golden_answers": ["1911", ""]}, ("1911",)),
        ({"answer": "1911"}, ("1911",)),
        ({"answers": ["a", "b"]}, ("a", "b")),
        ({"answers": {"text": ["a", "b"], "answer_start": [1, 2]}}, ("a", "b")),  # SQuAD
        ({"answer": {"value": "a", "aliases": ["b"], "type": "x"}}, ("a", "b")),  # TriviaQA
        ({"answer": {"value": "a", "aliases": None}}, ("a",)),
        ({"answer": {"value": "a", "aliases": "also"}}, ("a", "also")),
        ({"answer": "a", "answer_aliases": ["b"]}, ("a", "b")),  # MuSiQue
        ({"golden_answers": ["一九一一年"]}, ("一九一一年",)),
    ],
)
def test_gold_answers_as_people_have_them(tmp_path: Path, fields: dict[str, object], golds: tuple[str, ...]) -> None:
    record = {"id": "a", "question": "When?", **fields}
    assert load(str(write(tmp_path / "q.jsonl", record)))[0].golds == golds


@pytest.mark.parametrize(
    ("fields", "letters", "choice"),
    [
        ({"options": ["1911", "1950"], "choice": "B"}, "AB", "B"),
        ({"options": {"A": "1911", "B": "1950"}, "choice": 1}, "AB", "B"),
        ({"options": {"a": "1911", "b": "1950"}, "choice": "b"}, "AB", "B"),
        ({"options": {"A": 1911, "D": 1950}, "choice": "D"}, "AD", "D"),
        ({"choices": ["1911", "1950"], "answer": 1}, "AB", "B"),  # MMLU
        ({"choices": ["1911", "1950"], "golden_answers": ["1950"]}, "AB", "B"),
        ({"options": {"A": "1911", "B": "1950"}, "answer": "1950", "answer_idx": "B"}, "AB", "B"),  # MedQA
        ({"choices": {"text": ["1911", "1950"], "label": ["1", "2"]}, "answerKey": "2"}, "AB", "B"),  # ARC
    ],
)
def test_options_as_people_have_them(tmp_path: Path, fields: dict[str, object], letters: str, choice: str) -> None:
    (found,) = load(str(write(tmp_path / "q.jsonl", {"id": "a", "question": "When?", **fields})))
    assert (found.options, found.choice) == (dict(zip(letters, ["1911", "1950"], strict=True)), choice)
    assert found.golds == (f"{choice}: 1950",)


@pytest.mark.parametrize(
    ("record", "id"),
    [({"_id": "x"}, "x"), ({"id": 7}, "7"), ({"id": "a/b\nc"}, "a/b\nc"), ({}, "1"), ({"id": None}, "1")],
)
def test_ids_as_people_have_them(tmp_path: Path, record: dict[str, object], id: str) -> None:
    path = write(tmp_path / "q.jsonl", {"question": "Who?\0 ", "answer": "x", **record})
    assert [(each.id, each.text) for each in load(str(path))] == [(id, "Who?\0")]


def test_lines_and_arrays_are_told_apart_by_what_is_in_the_file(tmp_path: Path) -> None:
    many = [GOOD | {"id": "x\u2028y"}, GOOD | {"id": "b"}]
    array = tmp_path / "array.jsonl"
    array.write_text(json.dumps(many, indent=1, ensure_ascii=False), encoding="utf-8")
    lines = tmp_path / "lines.json"
    lines.write_text("".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in many), encoding="utf-8")
    assert load(str(array)) == load(str(lines))
    assert [each.id for each in load(str(write(tmp_path / "one.json", GOOD)))] == ["a"]
    array.write_text(json.dumps([GOOD, CHOICE | {"choice": "X"}], indent=1))
    with pytest.raises(BadQuestion, match=r"array\.jsonl:9: "):
        load(str(array))


TEXTS = st.text(max_size=6) | st.sampled_from(["\x1c", "\x85", "\u2028x", "x" * 4001, " " * 4001 + "x", "A", "b", "1"])
VALUES = st.recursive(
    TEXTS | st.integers(-1, 3) | st.floats(0, 2) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.just("text"), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["id", "question", "golden_answers", "options", "choice", "metadata"]), VALUES))
def test_what_is_read_is_what_the_gateway_takes(record: dict[str, object]) -> None:
    try:
        found = question_of(records.parse(json.dumps(record).encode()), "1")
    except ValueError:
        return
    asked = AnswerRequest.model_validate({"question": found.text, "options": dict(found.options)})
    assert (asked.question, asked.options) == (found.text, found.options)
    assert not found.options or found.choice in found.options
    assert question_of(records.parse(line_of(found).encode()), "1") == found


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "{}"])
def test_a_file_without_questions_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(content)
    with pytest.raises(EvaluateProblem, match=r"q\.json"):
        load(str(path))


def test_a_folder_is_no_question_set(tmp_path: Path) -> None:
    with pytest.raises(EvaluateProblem, match="Is a directory"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting"),
        ("[1]", "not a JSON object"),
        (json.dumps(GOOD | {"id": "b"}) + ",", "a comma follows the object"),
        (
            r'{"id": "b", "question": "Who \ud83d?", "golden_answers": ["x"]}',
            '"question" holds half of a surrogate pair',
        ),
        (r'{"id": "b", "question": "Who?", "golden_answers": ["\udc00"]}', '"golden_answers" holds half of a'),
        (r'{"id": "b", "question": "Who?", "golden_answers": [NaN]}', "NaN is not a JSON number"),
        (GOOD | {"id": True}, '"id" is true'),
        (GOOD | {"id": 1.5}, '"id" is 1.5'),
        (GOOD | {"id": " "}, '"id" is " "'),
        ({"id": "b", "golden_answers": ["x"]}, '"question" is missing'),
        (GOOD | {"id": "b", "question": "x" * 4001}, '"question" has 4,001 characters'),
        (GOOD | {"id": "b", "golden_answers": []}, "no gold answer"),
        (GOOD | {"id": "b", "golden_answers": [" "]}, '"golden_answers" holds no answer'),
        (GOOD | {"id": "b", "golden_answers": [True]}, '"golden_answers" holds true'),
        (GOOD | {"id": "b", "golden_answers": [None]}, '"golden_answers" holds null'),
        (GOOD | {"id": "b", "golden_answers": {"text": None}}, "neither a text nor a number"),
        (GOOD | {"id": "b", "golden_answers": {"other": "x"}}, '"golden_answers" holds no answer'),
        (GOOD | {"id": "b", "golden_answers": [["x"]]}, "neither a text nor a number"),
        (GOOD, "duplicate id 'a'"),
        (CHOICE | {"options": {"A": "x"}, "choice": "B"}, '"choice" is "B", which is not one of the options'),
        (CHOICE | {"choice": 2}, '"choice" is 2'),
        (CHOICE | {"choice": None}, "no right option"),
        (CHOICE | {"options": {"AA": "x", "B": "y"}}, '"options" is labelled AA, B'),
        (CHOICE | {"options": {"a": "x", "A": "y"}}, '"options" is labelled A, A'),
        (CHOICE | {"options": ["x"] * 27}, "27 options"),
        (CHOICE | {"options": ["x", ""]}, '"options" is missing or not a text'),
        (CHOICE | {"options": "x"}, '"options" is neither'),
        (GOOD | {"id": "b", "metadata": {"passage_ids": "p1"}}, "passage_ids"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, reason: str) -> None:
    path = write(tmp_path / "q.jsonl", GOOD, line)
    with pytest.raises(BadQuestion, match=r"q\.jsonl:2: ") as raised:
        load(str(path))
    assert reason in str(raised.value)


def test_a_torn_gzip_is_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 2000)[:-20])
    with pytest.raises(BadQuestion, match=r"q\.jsonl\.gz:1: "):
        load(str(path))


def test_a_set_by_name_is_fetched(tmp_path: Path) -> None:
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(write(tmp_path / "fetched.jsonl", GOOD))

    assert len(SETS) == 7
    assert [each.id for each in load("hotpotqa", download)] == ["a"]
    load("nq/train", download)
    assert asked == [
        ("RUC-NLPIR/FlashRAG_datasets", "hotpotqa/dev.jsonl"),
        ("RUC-NLPIR/FlashRAG_datasets", "nq/train.jsonl"),
    ]


@pytest.mark.parametrize(("error", "said"), [(OSError("no route"), "no route"), (ImportError(), "huggingface-hub")])
def test_a_hub_out_of_reach_is_said(error: Exception, said: str) -> None:
    def download(repository: str, file: str) -> str:
        raise error

    with pytest.raises(EvaluateProblem, match=said):
        load("nq", download)


def test_mirage(tmp_path: Path) -> None:
    path = write(tmp_path / "benchmark.json", MIRAGE)
    medqa, pubmedqa = load(str(path))
    assert (medqa.id, medqa.text, medqa.golds, medqa.choice) == ("medqa/0000", "Which?", ("B: no",), "B")
    assert medqa.options == {"A": "yes", "B": "no"}
    assert load(f"{path}#pubmedqa") == [pubmedqa]
    with pytest.raises(EvaluateProblem, match="there are medqa, pubmedqa"):
        load(f"{path}#mmlu")
    broken = MIRAGE | {"mmlu": {"3": {"question": "Q", "options": {"A": "x"}, "answer": "C"}}}
    with pytest.raises(EvaluateProblem, match=r'mmlu/3: "answer" is "C"'):
        load(str(write(tmp_path / "bad.json", broken)))
    with pytest.raises(EvaluateProblem, match="mmlu/4: no gold answer"):
        load(str(write(tmp_path / "bad.json", MIRAGE | {"mmlu": {"4": {"question": "Q"}}})))


def test_the_demos_two_hops_need_both_passages() -> None:
    lines = gzip.decompress(Path("data/demo/corpus.jsonl.gz").read_bytes()).splitlines()
    passages = {record["id"]: f"{record['title']} {record['text']}" for record in map(json.loads, lines)}
    found = load("data/demo/qa_two_hops.jsonl.gz")
    assert len({question.text for question in found}) == 91
    for question in found:
        first, second = (passages[id] for (id,) in question.gold_passages)
        assert span_match(second, question.golds), question.text
        assert not span_match(first, question.golds), question.text
        assert not span_match(question.text, question.golds), question.text
        assert question.groups == {"dataset": "demo", "hops": "2"}


def test_a_question_survives_being_written(tmp_path: Path) -> None:
    questions = load(str(write(tmp_path / "benchmark.json", MIRAGE))) + load("data/demo/qa_dev.jsonl.gz")[:3]
    questions += load(str(write(tmp_path / "several.jsonl", GOOD | {"metadata": SEVERAL})))
    path = write(tmp_path / "again.jsonl", *map(line_of, questions))
    assert load(str(path)) == questions


def test_what_is_neither_file_nor_set() -> None:
    with pytest.raises(EvaluateProblem, match="no such file, and no set of that name; there are nq"):
        load("nowhere.jsonl")


def test_picking_is_seeded_and_grows() -> None:
    questions = load("data/demo/qa_dev.jsonl.gz")
    few, more = pick(questions, 5, 1), pick(questions, 50, 1)
    assert few == more[:5] != pick(questions, 5, 2)
    assert pick(questions, None, 1) == questions
    assert "6,818 questions" in name_of("data/demo/qa_dev.jsonl.gz", questions)
    assert name_of("x", few) != name_of("x", few[::-1])


def test_a_source_is_what_questions_share_directly_or_through_others() -> None:
    def question(*passages: str, article: str = "") -> Question:
        return Question("q", "?", ("x",), tuple((id,) for id in passages), article=article)

    asked = [question("b", "c"), question("d"), question("a", "b"), question(), question("d", article="T"), question()]
    assert sources(asked) == ["a", "T", "a", "\n3", "T", "\n5"]


def test_parts_share_no_article_and_leave_nothing_out() -> None:
    asked = [Question(f"q{n}", f"question {n}", ("gold",), article=f"article {n // 3}") for n in range(90)]
    low, high = part(asked, 0.0, 0.6), part(asked, 0.6, 1.0)
    assert sorted([*low, *high], key=asked.index) == asked
    assert not {question.article for question in low} & {question.article for question in high}
    assert 36 <= len(low) <= 72
