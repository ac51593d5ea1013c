"""Worlds of PhantomWiki as passages and questions, and the universe that comes with the project."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from cli.main import main
from evaluation import questions as question_sets
from evaluation.errors import EvaluateProblem
from learning import universe
from search_agent.grading.answers import span_match

SHIPPED = Path("data/universe")


def write_world(folder: Path, *people: tuple[str, dict[str, str]]) -> Path:
    folder.mkdir()
    articles = [
        {"title": name, "article": "", "facts": [f'{what}("{name}", "{value}").' for what, value in facts.items()]}
        for name, facts in people
    ]
    (folder / "articles.json").write_text(json.dumps(articles))
    return folder


FAMILY = (
    (
        "Ann Lee",
        {"sister": "Bea Lee", "mother": "Cleo Lee", "father": "Dan Lee", "dob": "0200-01-02", "hobby": "chess"},
    ),
    ("Cleo Lee", {"husband": "Dan Lee", "mother": "Eve Ray", "job": "baker", "hobby": "chess", "daughter": "Ann Lee"}),
    ("Dan Lee", {"wife": "Cleo Lee", "job": "smith", "friend": "Eve Ray"}),
    ("Eve Ray", {"hobby": "rowing"}),
)


def test_a_passage_states_what_no_other_does(tmp_path: Path) -> None:
    world = universe.read_world(write_world(tmp_path / "w", *FAMILY))
    texts = {each.title: each.text for each in universe.passages("w", world)}
    assert texts["Dan Lee"] == "The occupation of Dan Lee is smith."
    assert texts["Cleo Lee"].startswith("The husband of Cleo Lee is Dan Lee. The mother of Cleo Lee is Eve Ray.")
    assert "sister" not in texts["Ann Lee"]


def test_questions_need_every_passage_of_their_path(tmp_path: Path) -> None:
    world = universe.read_world(write_world(tmp_path / "w", *FAMILY))
    found = universe.questions("w", world, {1: 100, 2: 100, 3: 100}, seed=0)
    asked = {question.text: question for question in found}
    last = asked["What is the hobby of the mother of the mother of Ann Lee?"]
    assert last.golds == ("rowing",)
    assert last.gold_passages == (("w-Ann-Lee",), ("w-Cleo-Lee",), ("w-Eve-Ray",))
    assert (last.article, last.groups) == ("w", {"dataset": "universe", "hops": "3", "chain": "3"})
    named_early = asked["What is the occupation of the husband of the mother of Ann Lee?"]  # Ann's father too
    assert named_early.groups["chain"] == "3-shortcut"
    assert asked["What is the occupation of the mother of Ann Lee?"].groups["chain"] == "2"
    assert "Who is the father of Ann Lee?" in asked
    # the passage that the question names already contains its answer
    assert "Who is the husband of the mother of Ann Lee?" not in asked
    assert "What is the hobby of the mother of Ann Lee?" not in asked
    texts = {each.id: each.text for each in universe.passages("w", world)}
    for question in found:
        *before, end = [texts[id] for (id,) in question.gold_passages]
        assert span_match(end, question.golds)
        assert not any(span_match(text, question.golds) for text in before)


def test_questions_are_chosen_by_the_seed(tmp_path: Path) -> None:
    world = universe.read_world(write_world(tmp_path / "w", *FAMILY))
    few = universe.questions("w", world, {1: 3}, seed=1)
    assert len(few) == 3
    assert few == universe.questions("w", world, {1: 3}, seed=1) != universe.questions("w", world, {1: 3}, seed=2)


def test_people_of_one_name_are_in_no_world() -> None:
    left = universe.without_namesakes({"a": {"Ann": {}, "Bob": {}}, "b": {"Bob": {}, "Cid": {}}})
    assert left == {"a": {"Ann": {}}, "b": {"Cid": {}}}


def test_a_folder_that_is_no_world_is_named(tmp_path: Path) -> None:
    (tmp_path / "articles.json").write_text('[{"title": "x"}]')
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(EvaluateProblem, match=r"articles\.json: not a world of PhantomWiki"):
            universe.read_world(folder)


def test_the_command_divides_by_worlds_and_writes_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {n: tuple((f"{name} {n}", facts) for name, facts in FAMILY) for n in ("one", "two", "three")}
    worlds = [str(write_world(tmp_path / n, *people)) for n, people in names.items()]
    made = []
    for out in ("a", "b"):
        assert main(["universe", *worlds, "--dev", "1", "--test", "1", "--out", str(tmp_path / out)]) == 0
        made.append({file.name: file.read_bytes() for file in (tmp_path / out).iterdir()})
    assert made[0] == made[1]
    parts = [question_sets.load(str(tmp_path / "a" / f"qa_{part}.jsonl.gz")) for part in ("train", "dev", "test")]
    assert [{question.article for question in part} for part in parts] == [{"one"}, {"two"}, {"three"}]
    assert main(["universe", *worlds, "--out", str(tmp_path / "c")]) == 1
    assert "leave none to train on" in capsys.readouterr().err


def test_the_shipped_universe() -> None:
    passages = {}
    for line in gzip.decompress((SHIPPED / "corpus.jsonl.gz").read_bytes()).splitlines():
        record = json.loads(line)
        passages[record["id"]] = record["text"]
    parts = [question_sets.load(str(SHIPPED / f"qa_{part}.jsonl.gz")) for part in ("train", "dev", "test")]
    assert (len(passages), *map(len, parts)) == (2628, 2000, 200, 400)
    worlds = [{question.article for question in part} for part in parts]
    assert [len(each) for each in worlds] == [20, 2, 4]
    assert len(set().union(*worlds)) == 26
    kinds = [Counter(question.groups["chain"] for question in part) for part in parts]
    assert kinds[2] == {"1": 40, "2": 180, "3": 128, "3-shortcut": 52}
    for question in (each for part in parts for each in part):
        assert len(question.gold_passages) == int(question.groups["hops"])
        if question.groups["chain"] == "3":
            first, _, last = [passages[id] for (id,) in question.gold_passages]
            assert not span_match(first, [last.partition(" is ")[0].rpartition(" of ")[2]])
        assert span_match(passages[question.gold_passages[-1][0]], question.golds)
