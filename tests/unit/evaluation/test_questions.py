"""Question sets by name, from files and from MIRAGE, and what is wrong with bad ones."""

import gzip
import json
from pathlib import Path

import pytest

from evaluation.errors import BadQuestion, EvaluateProblem
from evaluation.questions import SETS, line_of, load, name_of, part, pick, sources
from search_agent.types import Question

GOOD = {"id": "a", "question": "Who?", "golden_answers": ["x"]}
SEVERAL = {"passage_ids": ["p1", "p2"], "same_title_ids": {"p1": ["p3"]}, "dataset": "musique", "hops": 2}
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
    ("line", "reason"),
    [
        ("{", "Expecting"),
        ("[1]", "not a JSON object"),
        (GOOD | {"id": ""}, '"id" is missing'),
        ({"id": "b", "golden_answers": ["x"]}, '"question" is missing'),
        (GOOD | {"id": "b", "golden_answers": "x"}, '"golden_answers" is not a list'),
        (GOOD | {"id": "b", "golden_answers": []}, '"golden_answers" is not a list'),
        (GOOD, "duplicate id 'a'"),
        (GOOD | {"id": "b", "metadata": {"passage_ids": "p1"}}, '"metadata.passage_ids" is not a list'),
        (GOOD | {"id": "b", "metadata": {"passage_ids": [["p1"]]}}, '"metadata.passage_ids" is not a list'),
        (GOOD | {"id": "b", "metadata": {"same_title_ids": {"p1": "p2"}}}, '"metadata.same_title_ids" does not'),
        (GOOD | {"id": "b", "options": {"A": "x"}, "choice": "B"}, "not one of the options"),
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
    with pytest.raises(EvaluateProblem, match="mmlu/3: the right letter"):
        load(str(write(tmp_path / "bad.json", broken)))
    with pytest.raises(EvaluateProblem, match="mmlu/4: no 'options'"):
        load(str(write(tmp_path / "bad.json", MIRAGE | {"mmlu": {"4": {"question": "Q"}}})))


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
