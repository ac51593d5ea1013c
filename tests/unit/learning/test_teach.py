"""The examples that the teacher writes."""

from dataclasses import replace
from pathlib import Path

from learning.warm_start.supervised import read_spans
from learning.warm_start.teach import UNKNOWN, lessons, reading, searching, write
from search_agent import tags
from search_agent.agents import s3
from search_agent.testing import ListRetriever
from search_agent.types import Author, Passage, Question, Retrieval

GOLD = Passage("gold", "Radium", "Radium was found by Marie Curie in 1898.")
OTHERS = [Passage(f"p{n}", f"Title {n}", f"Text number {n} of something else.") for n in range(9)]
QUESTION = Question("q", "who found radium text number?", ("Marie Curie, a physicist", "Marie Curie"), (("gold",),))


def test_reading_covers_the_gold_passage_alone_among_others_and_missing() -> None:
    examples = reading(QUESTION, GOLD, OTHERS, seed=0)
    documents = [example[0].text.count("Doc ") for example in examples]
    assert documents[:3] == [1, 2, 3]
    assert 4 <= documents[3] <= 8
    assert 1 <= documents[4] <= 3
    assert all(QUESTION.text in example[0].text for example in examples)
    assert ["Radium was found" in example[0].text for example in examples] == [True] * 4 + [False]
    assert [example[1].text for example in examples] == ["Marie Curie"] * 4 + [UNKNOWN]
    assert all([span.author for span in example] == [Author.ENVIRONMENT, Author.POLICY] for example in examples)
    assert reading(QUESTION, GOLD, OTHERS, seed=0) == examples
    assert reading(QUESTION, GOLD, OTHERS, seed=1) != examples


def test_without_others_there_is_only_the_gold_passage() -> None:
    assert [example[1].text for example in reading(QUESTION, GOLD, [], seed=0)] == ["Marie Curie"] * 4


async def chosen(question: Question, passages: list[Passage]) -> str:
    spans = await searching(question, ListRetriever(passages), s3.S3Params(top_k=8))
    assert [span.author for span in spans] == [Author.ENVIRONMENT, Author.POLICY]
    move = tags.parse_move(spans[1].text, 8, 3)
    assert move.complete
    assert not move.error
    assert move.selected
    assert len(move.selected) == 1
    shown = await ListRetriever(passages).search([question.text], Retrieval(8, "", s3.S3Params().mode))
    return shown[0][move.selected[0] - 1].id


async def test_the_teacher_keeps_the_gold_passage_then_one_that_answers_then_the_best_guess() -> None:
    also = Passage("also", "Poland", "text number Marie Curie was born there.")
    assert await chosen(QUESTION, [*OTHERS[:4], also, GOLD]) == "gold"
    assert await chosen(QUESTION, [*OTHERS[:4], also]) == "also"
    assert await chosen(QUESTION, OTHERS) == "p0"


async def test_lessons_come_in_the_order_of_the_questions(tmp_path: Path) -> None:
    asked = [replace(QUESTION, id=f"q{n}") for n in range(3)]
    unknown = replace(QUESTION, id="unknown", gold_passages=(("nowhere",),))
    retriever, parameters = ListRetriever([*OTHERS, GOLD]), s3.S3Params()
    found = await lessons("reading", [*asked, unknown], retriever, parameters, 0, 0)
    assert [example[1].text for example in found] == [*["Marie Curie"] * 4, UNKNOWN] * 3
    write(found, tmp_path / "examples.jsonl")
    assert read_spans(tmp_path / "examples.jsonl") == found
    found = await lessons("searching", asked, retriever, parameters, 0, 0)
    assert len({example[0].text for example in found}) == 1  # the retriever's order


async def test_lessons_are_of_what_is_reranked_if_the_searches_are() -> None:
    retriever = ListRetriever([*OTHERS, GOLD])
    for what, draws in (("reading", 0), ("searching", 0), ("searching", 1)):
        await lessons(what, [QUESTION], retriever, s3.S3Params(rerank=20), draws, 0)
    assert [how.rerank for how in retriever.asked] == [20, 20, 20]


async def test_drawn_blocks_hold_the_right_passage_anywhere_among_others() -> None:
    unanswered = replace(QUESTION, id="unknown", gold_passages=(("nowhere",),), golds=("nobody",))
    retriever, parameters = ListRetriever([*OTHERS, GOLD]), s3.S3Params(top_k=4)
    found = await lessons("searching", [QUESTION, unanswered], retriever, parameters, 6, 0)
    assert len(found) == 6
    shown = [example[0].text for example in found]
    assert all("Radium was found" in text for text in shown)
    assert len(set(shown)) > 4
    assert {text.count("Doc ") for text in shown} <= {2, 3, 4}
    assert len({text.count("Doc ") for text in shown}) > 1
    moves = [tags.parse_move(example[1].text, 4, 3) for example in found]
    assert len({move.selected for move in moves}) > 1
    for text, move in zip(shown, moves, strict=True):
        assert move.selected
        assert text.index(f"Doc {move.selected[0]}") < text.index("Radium was found")
