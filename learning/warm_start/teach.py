"""`python -m learning.warm_start.teach`: what is learned before reinforcement, from a teacher that knows what is right.

For the reading adapter: reading the gold passage alone, among others, and others alone, where the reader says
that it does not know. For a searcher's warm start: the s3 agent itself, with the teacher as its policy, so
that the examples are episodes as they are served and trained.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from common import run_services
from common.pool import each
from common.run_config import ConfigProblem, RunConfig, load
from evaluation.errors import EvaluateProblem
from evaluation.questions import part
from learning.data import everything
from search_agent import tags
from search_agent.agents import AGENTS, s3
from search_agent.episode import answer_prompt
from search_agent.errors import RetrieverError
from search_agent.grading.answers import span_match
from search_agent.types import (
    UNTAUGHT,
    Author,
    Completion,
    IndexInfo,
    ModelCard,
    Passage,
    Question,
    Retrieval,
    Sampling,
    Span,
)
from search_agent.world import Retriever, World

UNKNOWN = "I do not know."
_DEPTH = 20  # how far down the ranking the gold passage and passages without an answer are looked for
_AT_ONCE = 64


def reading(question: Question, gold: Passage, others: Sequence[Passage], seed: int) -> list[list[Span]]:
    """Five examples: the gold passage alone, and among 1, 2 and up to 7 of `others`; and up to 3 of `others` alone.

    `others` hold no answer. The answer to learn is the shortest gold answer that stands in the passage.
    """
    order = random.Random(f"{seed} {question.id}")
    answer = min((each for each in question.golds if span_match(gold.text, [each])), key=len, default=question.golds[0])

    def example(passages: Sequence[Passage], reply: str) -> list[Span]:
        shuffled = order.sample(passages, len(passages))
        prompt = answer_prompt("answer", question.text, shuffled)
        return [Span(Author.ENVIRONMENT, prompt), Span(Author.POLICY, reply)]

    counts = (0, 1, 2, order.randint(3, 7))
    examples = [example([gold, *order.sample(others, min(count, len(others)))], answer) for count in counts]
    if others:
        examples.append(example(order.sample(others, min(order.randint(1, 3), len(others))), UNKNOWN))
    return examples


def right_passage(question: Question, found: Sequence[Passage]) -> Passage | None:
    """The gold passage, else the first that holds a gold answer."""
    gold = (passage for passage in found if passage.id in question.gold_ids)
    holding = (passage for passage in found if span_match(passage.text, question.golds))
    return next(gold, None) or next(holding, None)


class Teacher:
    """The retriever and the policy of one episode: it sees what was retrieved and keeps what it knows to be right."""

    def __init__(self, question: Question, retriever: Retriever) -> None:
        self._question, self._retriever = question, retriever
        self._block: tuple[Passage, ...] = ()

    async def search(self, queries: Sequence[str], how: Retrieval) -> list[tuple[Passage, ...]]:
        (self._block,) = found = await self._retriever.search(queries, how)
        return found

    async def indexes(self) -> Sequence[IndexInfo]:
        return await self._retriever.indexes()

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        """A complete move that keeps the best passage."""
        return Completion(tags.render_move(tags.Move((self._best(),), complete=True)))

    def _best(self) -> int:
        """The number of the right passage, else 1: the best guess."""
        right = right_passage(self._question, self._block)
        return self._block.index(right) + 1 if right else 1


async def searching(question: Question, retriever: Retriever, parameters: s3.S3Params) -> list[Span]:
    """The teacher's episode on a question, which is not answered. Raises RetrieverError."""
    teacher = Teacher(question, retriever)
    agent = replace(AGENTS["s3"], params=parameters)
    return list((await agent.play(question, World(teacher, teacher))).spans)


class _Drawn:
    """A retriever that draws blocks of two passages and more from the first of a ranking, in any order.

    A model that always sees the retriever's order learns to keep the first passage and to read nothing; one that
    always sees `top_k` passages in any order was seen to learn nothing at all.
    """

    def __init__(self, ranking: Sequence[Passage], right: Passage, seed: str) -> None:
        self._right, self._order = right, random.Random(seed)
        self._others = [passage for passage in ranking if passage is not right]

    async def search(self, queries: Sequence[str], how: Retrieval) -> list[tuple[Passage, ...]]:
        others = min(self._order.randint(1, max(1, how.top_k - 1)), len(self._others))
        block = [self._right, *self._order.sample(self._others, others)]
        self._order.shuffle(block)
        return [tuple(block)] * len(queries)

    async def indexes(self) -> Sequence[IndexInfo]:
        return []


async def lesson(
    what: str, question: Question, retriever: Retriever, parameters: s3.S3Params, draws: int, seed: int
) -> list[list[Span]]:
    """The examples of one question. Raises RetrieverError.

    Searching: the episode on what is retrieved or, with `draws`, as many episodes on blocks drawn from deeper down
    the ranking. Reading and drawing need a right passage to be found, and give nothing otherwise.
    """
    if what == "searching" and not draws:
        return [await searching(question, retriever, parameters)]
    (found,) = await retriever.search([question.text], replace(parameters, top_k=_DEPTH))
    right = right_passage(question, found)
    if what == "searching":
        blocks = [_Drawn(found, right, f"{seed} {draw} {question.id}") for draw in range(draws)] if right else []
        return [await searching(question, block, parameters) for block in blocks]
    gold = right if right and right.id in question.gold_ids else None
    others = [passage for passage in found if passage != gold and not span_match(passage.text, question.golds)]
    return reading(question, gold, others, seed) if gold else []


async def lessons(
    what: str, asked: Sequence[Question], retriever: Retriever, parameters: s3.S3Params, draws: int, seed: int
) -> list[list[Span]]:
    """The examples of all questions, in their order. Raises RetrieverError, EvaluateProblem for none."""
    from tqdm import tqdm

    if not asked:
        raise EvaluateProblem("there is no question in that part")

    found: dict[str, list[list[Span]]] = {}
    with tqdm(total=len(asked), unit="question") as bar:

        async def work(question: Question) -> None:
            found[question.id] = await lesson(what, question, retriever, parameters, draws, seed)
            bar.update()

        await each(asked, work, _AT_ONCE)
    return [example for question in asked for example in found[question.id]]


def write(examples: Sequence[Sequence[Span]], out: Path, taught: ModelCard = UNTAUGHT) -> None:
    """Writes the file that `learning.warm_start.supervised` reads; `taught` says what the examples teach."""
    spans = ({"spans": [[span.author, span.text] for span in example]} for example in examples)
    lines = ({"card": asdict(taught)}, *spans)
    out.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="learning.warm_start.teach", description=__doc__)
    parser.add_argument("what", choices=("reading", "searching"))
    parser.add_argument(
        "--config",
        default="smollm2-demo",
        metavar="NAME|FILE",
        help="the run that is to come: its questions, index and agent (default: %(default)s)",
    )
    parser.add_argument(
        "--part",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="of articles (default: all)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=0,
        metavar="N",
        help="searching: blocks drawn for a question; 0: what is retrieved, in its order (default)",
    )
    parser.add_argument("--retriever", metavar="HOST:PORT", help="default: the configuration's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()

    async def run(settings: RunConfig, parameters: s3.S3Params) -> list[list[Span]]:
        retriever = run_services.retriever_of(settings)
        try:
            asked = part(everything(settings), *args.part)
            return await lessons(args.what, asked, retriever, parameters, args.draws, args.seed)
        finally:
            await retriever.close()

    try:
        settings = load(args.config, {"retriever": args.retriever} if args.retriever else None)
        if not isinstance(parameters := settings.method.params, s3.S3Params):
            raise ConfigProblem("agent", f"the teacher plays s3, not {settings.agent}")
        taught = settings.card(tuple(args.part))
        if args.what == "reading":
            taught = ModelCard(data=taught.data)
        write(examples := asyncio.run(run(settings, parameters)), args.out, taught)
        print(f"{args.out}: {len(examples):,} examples")
    except (ConfigProblem, EvaluateProblem, RetrieverError, OSError) as error:
        raise SystemExit(f"learning.warm_start.teach: {error}") from None


if __name__ == "__main__":
    main()
