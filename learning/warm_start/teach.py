"""Lessons for a warm start.

Reading lessons teach a generator to answer from passages. Searching lessons are episodes of the s3 agent as it is
served and trained, with the teacher as its policy. Protocol lessons are such episodes too, played at random: they teach
the form of a move and leave reinforcement to find what is right.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.files import write_whole
from common.pool import each
from evaluation.errors import EvaluateProblem
from learning.warm_start import reading
from learning.warm_start.novice import Novice
from learning.warm_start.player import Player
from learning.warm_start.poisoned import PoisonedRetriever
from learning.warm_start.queries import names
from learning.warm_start.teacher import Teacher, right_passages
from search_agent.agents import s3
from search_agent.grading.answers import span_match
from search_agent.grading.evidence import coverage
from search_agent.types import UNTAUGHT, IndexInfo, ModelCard, Passage, Question, Rankings, Retrieval, Span
from search_agent.world import Retriever

_DEPTH = 20  # how far down the ranking gold passages and passages without an answer are looked for
_NAMES = 6  # of a question's gold passages that are searched for
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Lesson:
    """An example and its kind. `whole` is false if the episode missed a gold passage that it should have kept.

    `kept` are the ids of the passages that it kept.
    """

    spans: Sequence[Span]
    kind: tuple[object, ...]
    whole: bool = True
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """The lessons to make.

    `gold` holds the gold passages that are known beforehand, by id; others become known once they are retrieved.
    Searching: `draws` is the number of episodes per question on blocks drawn from deeper down the ranking; 0 plays one
    episode on what is retrieved. Reading: `unknown` is the share of questions that also get an example with one
    gold passage missing. `poisoned` is the share of the other passages that speak to the student; no lesson obeys one.
    """

    what: str
    parameters: s3.S3Params
    gold: Mapping[str, Passage]
    draws: int = 0
    unknown: float = 1.0
    seed: int = 0
    poisoned: float = 0.0


class _Drawn:
    """A retriever that draws blocks of at least two passages from the top of a ranking, in random order.

    A model that always sees the retriever's order learns to keep the first passage without reading. A model that always
    saw `top_k` passages in random order learned nothing at all.
    """

    def __init__(self, question: Question, retriever: Retriever, seed: str) -> None:
        self._question, self._retriever, self._order = question, retriever, random.Random(seed)

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        rankings = await self._retriever.search(queries, replace(how, top_k=_DEPTH))
        return Rankings((self._drawn(found, how.top_k) for found in rankings), rankings.served)

    async def indexes(self) -> Sequence[IndexInfo]:
        return await self._retriever.indexes()

    def _drawn(self, ranking: Sequence[Passage], top_k: int) -> tuple[Passage, ...]:
        right = right_passages(self._question, ranking)[:top_k]
        others = [passage for passage in ranking if passage not in right]
        block = [
            *right,
            *self._order.sample(others, min(self._order.randint(1, max(1, top_k - len(right))), len(others))),
        ]
        return tuple(self._order.sample(block, len(block)))


async def lessons_on(question: Question, retriever: Retriever, plan: Plan) -> list[Lesson]:
    """Returns the lessons on one question. Raises RetrieverError.

    Reading needs all gold passages, and drawing a right passage among the first of the ranking; without them there
    is no lesson.
    """
    poisoned = PoisonedRetriever(question, retriever, plan.poisoned, plan.seed)
    made = await _lessons_on(question, poisoned, plan)
    return [lesson for lesson in made if not lesson.kept & poisoned.ids]


async def _lessons_on(question: Question, retriever: Retriever, plan: Plan) -> list[Lesson]:
    if plan.what == "protocol":
        novice = Novice(retriever, plan.parameters, f"{plan.seed} {question.id}")
        return [replace(await _played(question, novice), whole=True)]  # or a limit would prefer the lucky ones
    if plan.what == "searching" and not plan.draws:
        return [await _played(question, _teacher(question, retriever, plan))]
    (found,) = await retriever.search([question.text], replace(plan.parameters, top_k=_DEPTH))
    if plan.what == "searching":
        if not right_passages(question, found):
            return []
        drawn = (_Drawn(question, retriever, f"{plan.seed} {draw} {question.id}") for draw in range(plan.draws))
        return [await _played(question, _teacher(question, blocks, plan)) for blocks in drawn]
    known = {**{passage.id: passage for passage in found}, **plan.gold}
    gold = [next((known[id] for id in ids if id in known), None) for ids in question.gold_passages]
    complete = [passage for passage in gold if passage]
    if not gold or len(complete) < len(gold):
        return []
    named = await _named(question, complete, retriever, plan)
    others = _unanswered(question, [passage for passage in found if passage not in named], plan)
    made = reading.examples(question, complete, named, others, plan.unknown, plan.seed)
    return [Lesson(spans, (*question.groups.items(), place)) for place, spans in enumerate(made)]


async def _named(question: Question, gold: Sequence[Passage], retriever: Retriever, plan: Plan) -> list[Passage]:
    """Returns what searches for names in the gold passages find first: what a searcher keeps that searches too often.

    A reader that was taught without them takes its answer from the last of a chain (bench/pages/reinforcement.md).
    """
    order = random.Random(f"{plan.seed} {question.id}")
    names_in = sorted({name for passage in gold for name in names(passage.text)})
    queries = order.sample(names_in, min(_NAMES, len(names_in)))
    rankings = await retriever.search(queries, plan.parameters) if queries else ()
    first = {ranking[0].id: ranking[0] for ranking in rankings if ranking}
    return [passage for passage in first.values() if passage.id not in question.gold_ids]


def _unanswered(question: Question, found: Sequence[Passage], plan: Plan) -> list[Passage]:
    """Returns some passages without a gold answer."""
    others = [
        passage
        for passage in found
        if passage.id not in question.gold_ids and not span_match(passage.text, question.golds)
    ]
    return random.Random(f"{plan.seed} {question.id}").sample(others, min(reading.MOST_OTHERS, len(others)))


def _teacher(question: Question, retriever: Retriever, plan: Plan) -> Teacher:
    return Teacher(question, plan.gold, retriever, plan.parameters)


async def _played(question: Question, player: Player) -> Lesson:
    played = await player.play(question)
    kept = [passage.id for passage in played.passages]
    whole = not question.gold_passages or coverage(question.gold_passages, kept) == 1
    return Lesson(played.spans, (*question.groups.items(), len(played.turns), len(kept)), whole, frozenset(kept))


def varied(lessons: Sequence[Lesson], limit: int) -> list[Lesson]:
    """Returns `limit` lessons, as many of each kind as there are, in their order; whole ones come before others."""
    seen: Counter[tuple[object, ...]] = Counter()
    ranked = []
    for place, lesson in enumerate(lessons):
        ranked.append((not lesson.whole, seen[lesson.kind], place))
        seen[lesson.kind] += 1
    return [lessons[place] for place in sorted(place for *_, place in sorted(ranked)[:limit])]


async def lessons_of(asked: Sequence[Question], retriever: Retriever, plan: Plan) -> list[Lesson]:
    """Returns the lessons on all questions, in their order. Raises RetrieverError, EvaluateProblem for none."""
    from tqdm import tqdm

    if not asked:
        raise EvaluateProblem("there is no question in that part")

    found: dict[int, list[Lesson]] = {}
    with tqdm(total=len(asked), unit="question") as bar:

        async def work(numbered: tuple[int, Question]) -> None:
            place, question = numbered
            found[place] = await lessons_on(question, retriever, plan)
            bar.update()

        await each(enumerate(asked), work, _AT_ONCE)
    return [lesson for place in range(len(asked)) for lesson in found[place]]


def write(examples: Sequence[Sequence[Span]], out: Path, taught: ModelCard = UNTAUGHT) -> None:
    """Writes the file that `search-agent supervised` reads; `taught` says what the examples teach."""
    spans = ({"spans": [[span.author, span.text] for span in example]} for example in examples)
    lines = ({"card": asdict(taught)}, *spans)
    write_whole(out, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
