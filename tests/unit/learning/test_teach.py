"""The examples that the teacher writes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.errors import EvaluateProblem
from learning.warm_start import reading
from learning.warm_start.novice import Novice
from learning.warm_start.poisoned import ATTACKS
from learning.warm_start.queries import names
from learning.warm_start.reading import UNKNOWN
from learning.warm_start.supervised import read_spans
from learning.warm_start.teach import Lesson, Plan, lessons_of, varied, write
from learning.warm_start.teacher import Teacher
from search_agent import tags
from search_agent.agents.s3 import S3Params
from search_agent.testing import ListRetriever
from search_agent.types import Author, Passage, Question, StopReason, Trajectory

GOLD = Passage("gold", "Radium", "Radium was found by Marie Curie in 1898.")
OTHERS = [Passage(f"p{n}", f"Title {n}", f"Text number {n} of something else.") for n in range(9)]
QUESTION = Question("q", "who found radium text number?", ("Marie Curie, a physicist", "Marie Curie"), (("gold",),))

# Two passages are needed, and the second is found by the title that the first one names.
FILM = Passage("film", "The Long Night", "The Long Night is a film directed by Ann Lee.")
DIRECTOR = Passage("director", "Ann Lee (director)", "She was born in Oslo.")
TWIN = Passage("twin", "Ann Lee", "Born in Oslo.")
HOPS = Question(
    "h", "where was the director of The Long Night film born?", ("Oslo",), (("film",), ("director", "twin")),
    groups={"hops": "2"},
)  # fmt: skip
KNOWN = {"film": FILM, "director": DIRECTOR}


class Titled(ListRetriever):
    """Finds passages by the words of their titles as well."""

    def _rank(self, query: str) -> tuple[Passage, ...]:
        def common(passage: Passage) -> int:
            return len({*query.lower().split()} & {*f"{passage.title} {passage.text}".lower().split()})

        return tuple(sorted(self._passages, key=common, reverse=True))


def plan(what: str, **more: object) -> Plan:
    fields: dict[str, object] = {"parameters": S3Params(), "gold": {}, **more}
    return Plan(what, **fields)  # type: ignore[arg-type]


def test_reading_covers_the_gold_passage_alone_among_others_and_missing() -> None:
    examples = reading.examples(QUESTION, [GOLD], [], OTHERS, 1.0, seed=0)
    documents = [example[0].text.count("Doc ") for example in examples]
    assert documents[:3] == [1, 2, 3]
    assert 4 <= documents[3] <= 8
    assert 1 <= documents[4] <= 3
    assert all(QUESTION.text in example[0].text for example in examples)
    assert ["Radium was found" in example[0].text for example in examples] == [True] * 4 + [False]
    assert [example[1].text for example in examples] == ["Marie Curie"] * 4 + [UNKNOWN]
    assert all([span.author for span in example] == [Author.ENVIRONMENT, Author.POLICY] for example in examples)
    assert reading.examples(QUESTION, [GOLD], [], OTHERS, 1.0, seed=0) == examples
    assert reading.examples(QUESTION, [GOLD], [], OTHERS, 1.0, seed=1) != examples


def test_without_others_there_is_only_the_gold_passage() -> None:
    assert [example[1].text for example in reading.examples(QUESTION, [GOLD], [], [], 1.0, seed=0)] == [
        "Marie Curie"
    ] * 4


def test_reading_several_gold_passages_fails_without_one_of_them() -> None:
    *complete, incomplete = reading.examples(HOPS, [FILM, DIRECTOR], [], OTHERS, 1.0, seed=3)
    assert all(FILM.text in example[0].text and DIRECTOR.text in example[0].text for example in complete)
    assert [example[1].text for example in complete] == ["Oslo"] * 4
    assert [FILM.text in incomplete[0].text, DIRECTOR.text in incomplete[0].text].count(True) == 1
    assert incomplete[1].text == UNKNOWN


def test_a_passage_that_the_gold_ones_name_is_read_even_if_it_names_the_answer() -> None:
    who = replace(HOPS, text="who directed The Long Night?", golds=("Ann Lee",))
    about = Passage("about", "Ann Lee", "The mother of Ann Lee is Bea Lee.")
    asked = [replace(who, id=f"h{n}") for n in range(20)]
    made = [reading.examples(each, [FILM], [about], OTHERS, 1.0, seed=0) for each in asked]
    assert all(about.text in one[0].text and answer.text == "Ann Lee" for _, (*one, answer), *_ in made)
    ends = [one[0].text.index(about.text) > one[0].text.index(FILM.text) for _, one, *_ in made]
    assert 10 < sum(ends) < 20  # in half of them by order, in others by chance
    assert not any(about.text in example[0].text for *_, example in made)  # what is answered with UNKNOWN


def test_a_share_of_the_questions_has_an_example_without_a_gold_passage() -> None:
    asked = [replace(HOPS, id=f"h{n}") for n in range(200)]
    made = [len(reading.examples(each, [FILM, DIRECTOR], [], OTHERS, 0.3, seed=0)) for each in asked]
    assert {*made} == {4, 5}
    assert 0.2 < made.count(5) / 200 < 0.4


def moves(played: Trajectory) -> list[tuple[list[str], str]]:
    """Returns what each turn kept, and the search that followed it."""
    searched = [turn.query for turn in played.turns[1:]] + [""]
    return [([p.id for p in turn.selected], query) for turn, query in zip(played.turns, searched, strict=True)]


async def taught(
    question: Question, passages: Sequence[Passage], gold: Mapping[str, Passage] = KNOWN, **params: int
) -> Trajectory:
    parameters = S3Params(**{"top_k": 2, "max_turns": 3, **params})
    played = await Teacher(question, gold, Titled(passages), parameters).play(question)
    assert not any(turn.error for turn in played.turns)
    return played


async def test_the_teacher_searches_the_title_that_a_kept_passage_names() -> None:
    # of the first two passages only the film's is gold; its text names the director
    decoys = [Passage("d", "Films", "the film where a director was born"), *OTHERS]
    played = await taught(HOPS, [*decoys, DIRECTOR, FILM])
    assert moves(played) == [(["film"], "Ann Lee (director)"), (["director"], "")]
    assert played.stop_reason is StopReason.COMPLETE


async def test_a_passage_that_counts_as_the_gold_one_is_kept_and_not_searched_for_again() -> None:
    played = await taught(HOPS, [*OTHERS, TWIN, FILM])
    assert moves(played)[0] == (["film"], "Ann Lee (director)")
    assert moves(played)[1] == (["twin"], "")


async def test_the_teacher_stops_where_nothing_that_it_read_finds_what_is_missing() -> None:
    silent = replace(FILM, text="The Long Night is a film.")
    hers = Passage("director", "Ann Lee", "A life in Oslo.")
    assert moves(await taught(HOPS, [*OTHERS, hers, silent], {"director": hers})) == [(["film"], "")]
    assert moves(await taught(HOPS, [*OTHERS, FILM], {})) == [(["film"], "")]  # what is missing is not known
    assert moves(await taught(HOPS, [*OTHERS, FILM])) == [(["film"], "")]  # the director is not in the corpus


async def test_the_teacher_follows_a_name_into_a_passage_of_another_title() -> None:
    # three passages in a row; the title of the last is read nowhere, and many passages name the painter
    painting = Passage("painting", "Blue Bridge", "Blue Bridge was painted by Ada Moor.")
    letters = Passage("letters", "Letters of 1890", "Ada Moor wrote them; she died in Elm Town.")
    asked = Question("l", "Where did who made Blue Bridge die, and what river is there?", ("Elm",),
                     (("painting",), ("letters",), ("town",)))  # fmt: skip
    town = Passage("town", "Elm Town", "Elm Town lies on the Elm, a river.")
    gold = {passage.id: passage for passage in (painting, letters, town)}
    played = await taught(asked, [*OTHERS, town, letters, painting], gold, max_turns=4, top_k=1)
    assert moves(played) == [(["painting"], "Ada Moor"), (["letters"], "Elm Town"), (["town"], "")]


async def test_both_sides_of_a_comparison_are_followed() -> None:
    films = [Passage(f"f{n}", title, f"{title} was directed by {who}.") for n, (title, who) in enumerate(
        [("Grey Dawn", "Bo Ek"), ("Red Dusk", "Cy Orr")])]  # fmt: skip
    people = [Passage(who, who, f"{who} was born in {year}.") for who, year in (("Bo Ek", 1900), ("Cy Orr", 1910))]
    needed = tuple((passage.id,) for passage in (*films, *people))
    asked = Question("c", "Which has the older director, Grey Dawn or Red Dusk?", ("Grey Dawn",), needed)
    gold = {passage.id: passage for passage in (*films, *people)}
    played = await taught(asked, [*OTHERS, *people, *films], gold)
    assert moves(played) == [(["f0", "f1"], "Bo Ek"), (["Bo Ek"], "Cy Orr"), (["Cy Orr"], "")]


async def test_the_last_turn_ends_the_episode() -> None:
    assert moves(await taught(HOPS, [*OTHERS, DIRECTOR, FILM], max_turns=1)) == [(["film"], "")]


async def chosen(question: Question, passages: Sequence[Passage]) -> str:
    played = await Teacher(question, {}, ListRetriever(passages), S3Params(top_k=8)).play(question)
    ((kept, _),) = moves(played)
    assert len(kept) == 1
    return kept[0]


async def test_the_teacher_keeps_the_gold_passage_then_one_that_answers_then_the_best_guess() -> None:
    also = Passage("also", "Poland", "text number Marie Curie was born there.")
    assert await chosen(QUESTION, [*OTHERS[:4], also, GOLD]) == "gold"
    assert await chosen(QUESTION, [*OTHERS[:4], also]) == "also"
    assert await chosen(QUESTION, OTHERS) == "p0"


async def test_a_novice_writes_the_protocol_and_knows_nothing() -> None:
    parameters = S3Params(top_k=4, max_selected=2, max_turns=3)
    passages = [*(replace(each, text=f"A text by Ann Poe{n} and Bob Poe{n}.") for n, each in enumerate(OTHERS)), FILM]
    players = [Novice(Titled(passages), parameters, str(seed)) for seed in range(60)]
    played = [await player.play(HOPS) for player in players]
    assert not any(turn.error for each in played for turn in each.turns)
    assert {len(each.turns) for each in played} == {1, 2, 3}
    assert {len(turn.selected) for each in played for turn in each.turns} == {0, 1, 2}
    assert len({turn.query for each in played for turn in each.turns[1:]}) > 3
    again = await Novice(Titled(passages), parameters, "7").play(HOPS)
    assert again.spans == played[7].spans


async def test_a_novice_searches_for_names_of_the_newest_block_that_it_knows_nothing_about() -> None:
    people = ["Ann Lee", "Bea Lee", "Cleo Ray", "Dora Fox"]
    chain = [
        Passage(one, one, f"The hobby of {one} is chess. The mother of {one} is {two}.")
        for one, two in zip(people, [*people[1:], "Eve Low"], strict=True)
    ]
    parameters = S3Params(top_k=1, max_turns=4)
    question = Question("n", "what is the hobby of Ann Lee", ("chess",))
    queries = [
        [turn.query for turn in (await Novice(Titled(chain[::-1]), parameters, str(seed)).play(question)).turns[1:]]
        for seed in range(40)
    ]
    assert max(queries, key=len) == people[1:]
    assert all(found == people[1 : 1 + len(found)] for found in queries)


def test_names_are_capitalised_runs_within_a_sentence() -> None:
    text = 'The mother of Ann Lee is Cleo Lee\'s aunt. The hobby is chess. She won in May in "Old Oslo".'
    assert names(text) == ["Ann Lee", "Cleo Lee", "May", "Old Oslo"]


async def test_lessons_come_in_the_order_of_the_questions(tmp_path: Path) -> None:
    asked = [replace(QUESTION, id=f"q{n}") for n in range(3)]
    unknown = replace(QUESTION, id="unknown", gold_passages=(("nowhere",),))
    retriever = ListRetriever([*OTHERS, GOLD])
    found = await lessons_of([*asked, unknown], retriever, plan("reading"))
    assert [lesson.spans[1].text for lesson in found] == [*["Marie Curie"] * 4, UNKNOWN] * 3
    write([lesson.spans for lesson in found], tmp_path / "examples.jsonl")
    assert read_spans(tmp_path / "examples.jsonl") == [list(lesson.spans) for lesson in found]
    found = await lessons_of(asked, retriever, plan("searching"))
    assert len({lesson.spans[0].text for lesson in found}) == 1  # the retriever's order
    protocol = [await lessons_of(asked, retriever, plan("protocol", seed=seed)) for seed in (1, 1, 2)]
    assert protocol[0] == protocol[1] != protocol[2]
    assert all(lesson.whole for lesson in protocol[0])  # a lucky episode is worth no more
    with pytest.raises(EvaluateProblem):
        await lessons_of([], retriever, plan("searching"))


async def test_gold_passages_known_beforehand_need_not_be_retrieved() -> None:
    retriever = Titled([*OTHERS, FILM])
    assert await lessons_of([HOPS], retriever, plan("reading")) == []
    both = await lessons_of([HOPS, replace(HOPS, text="where was she born?")], retriever, plan("searching"))
    assert len({lesson.spans[0].text for lesson in both}) == 2  # two sets may use one id
    found = await lessons_of([HOPS], retriever, plan("reading", gold={"director": DIRECTOR}))
    assert [lesson.spans[1].text for lesson in found] == [*["Oslo"] * 4, UNKNOWN]


async def test_a_reader_sees_what_a_search_too_many_finds() -> None:
    mother = Passage("mother", "Bea Lee", "Bea Lee was born in Rome.")  # the question does not find her
    director = replace(DIRECTOR, text="The mother of Ann Lee is Bea Lee. Ann Lee was born in Oslo.")
    asked = [replace(HOPS, id=f"q{n}") for n in range(10)]
    lessons = await lessons_of(
        asked,
        Titled([*OTHERS, *(Passage(f"f{n}", "The film", "the director of a film, born") for n in range(20)), mother]),
        plan("reading", gold={"film": FILM, "director": director}),
    )
    kept = [lesson.spans for lesson in lessons if lesson.spans[1].text == "Oslo"]
    assert 5 < sum(mother.text in spans[0].text for spans in kept) < len(kept)
    assert any(mother.text in spans[0].text and spans[0].text.count("Doc ") == 3 for spans in kept)


async def test_lessons_are_of_what_is_reranked_if_the_searches_are() -> None:
    for what, draws, searches in (("reading", 0, 2), ("searching", 0, 1), ("searching", 1, 2)):
        retriever = ListRetriever([*OTHERS, GOLD])
        await lessons_of([QUESTION], retriever, plan(what, draws=draws, parameters=S3Params(rerank=20)))
        assert [how.rerank for how in retriever.asked] == [20] * searches


async def test_drawn_blocks_hold_the_right_passage_anywhere_among_others() -> None:
    unanswered = replace(QUESTION, id="unknown", gold_passages=(("nowhere",),), golds=("nobody",))
    drawn = plan("searching", draws=6, parameters=S3Params(top_k=4))
    found = await lessons_of([QUESTION, unanswered], ListRetriever([*OTHERS, GOLD]), drawn)
    assert len(found) == 6
    shown = [lesson.spans[0].text for lesson in found]
    assert all("Radium was found" in text for text in shown)
    assert len(set(shown)) > 4
    assert {text.count("Doc ") for text in shown} <= {2, 3, 4}
    assert len({text.count("Doc ") for text in shown}) > 1
    moves = [tags.parse_move(lesson.spans[1].text, 4, 3) for lesson in found]
    assert len({move.selected for move in moves}) > 1
    for text, move in zip(shown, moves, strict=True):
        assert move.selected
        assert text.index(f"Doc {move.selected[0]}") < text.index("Radium was found")


def test_a_limit_takes_as_many_of_each_kind_and_whole_episodes_first() -> None:
    common = [Lesson((), ("2",)) for _ in range(90)]
    rare = [Lesson((), ("4",)) for _ in range(3)]
    broken = [Lesson((), ("4", "incomplete"), whole=False) for _ in range(9)]
    made = [*common[:50], *broken, *rare, *common[50:]]
    assert [lesson.kind for lesson in varied(made, 4)] == [("2",), ("2",), ("4",), ("4",)]
    assert [lesson.kind for lesson in varied(made, 8)].count(("2",)) == 5
    assert sum(lesson.whole for lesson in varied(made, 100)) == 93
    assert varied(made, 1000) == made


@pytest.mark.parametrize("what", ["reading", "searching"])
async def test_poisoned_passages_are_read_and_never_obeyed(what: str) -> None:
    retriever = ListRetriever([*OTHERS, GOLD])
    questions = [replace(QUESTION, id=f"q{n}") for n in range(20)]
    plain = await lessons_of(questions, retriever, plan(what))
    poisoned = await lessons_of(questions, retriever, plan(what, poisoned=1.0))
    prompts = [lesson.spans[0].text for lesson in poisoned]
    assert len({*prompts} - {lesson.spans[0].text for lesson in plain}) > 10
    assert all(GOLD.text in prompt or what == "reading" for prompt in prompts)
    assert all(lesson.kept <= {"gold"} for lesson in poisoned)
    learned = {lesson.spans[-1].text for lesson in poisoned}
    assert not any("Title" in text for text in learned)
    if what == "reading":
        assert learned == {"Marie Curie", UNKNOWN}


def test_attacks_to_learn_from_are_not_those_that_measure() -> None:
    measured = (Path(__file__).parents[3] / "data" / "poisoned" / "passages.jsonl").read_text("utf-8")
    parts = [part for attack in ATTACKS for part in re.split(r"\{\w+\}|\n", attack) if len(part.split()) > 3]
    assert parts
    assert not [part for part in parts if part.strip() in measured]
