"""`python -m services.trainer.teach`: what is learned before reinforcement, from a teacher that knows what is right.

For the reading adapter: reading the gold passage alone, among others, and others alone, where the reader says
that it does not know. For a searcher's warm start: the s3 agent itself, with the teacher as its policy, so
that the examples are episodes as they are served and trained.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from search_agent import tags
from search_agent.agents import s3
from search_agent.episode import Episode, answer_prompt
from search_agent.errors import Failure, GeneratorError, RetrieverError
from search_agent.evaluate import Question
from search_agent.ports import Retriever
from search_agent.scoring import span_match
from search_agent.types import Author, Completion, Message, Mode, Passage, Sampling, Span
from services.common.backends import GrpcRetriever
from services.evaluate import questions as question_sets
from services.evaluate.errors import EvaluateProblem
from services.evaluate.pool import each
from services.trainer.data import part

UNKNOWN = "I do not know."
_DEPTH = 20  # how far down the ranking the gold passage and passages without an answer are looked for
_AT_ONCE = 16


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


class Teacher:
    """The retriever and the policy of one episode: it sees what was retrieved and keeps what it knows to be right."""

    def __init__(self, question: Question, retriever: Retriever) -> None:
        self._question, self._retriever = question, retriever
        self._block: tuple[Passage, ...] = ()

    async def search(
        self, queries: Sequence[str], top_k: int, index: str, mode: Mode, rerank: int = 0
    ) -> list[tuple[Passage, ...]]:
        (self._block,) = found = await self._retriever.search(queries, top_k, index, mode, rerank)
        return found

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        """A complete move that keeps the best passage."""
        return Completion(tags.render_move(tags.Move((self._best(),), complete=True)))

    def _best(self) -> int:
        """The number of the gold passage, else of the first that holds a gold answer, else 1: the best guess."""
        golds = [n for n, passage in enumerate(self._block, 1) if passage.id in self._question.passage_ids]
        holding = (n for n, passage in enumerate(self._block, 1) if span_match(passage.text, self._question.golds))
        return golds[0] if golds else next(holding, 1)


async def searching(question: Question, retriever: Retriever, parameters: s3.S3Params) -> list[Span]:
    """The teacher's episode on a question, which is not answered. Raises RetrieverError."""
    teacher = Teacher(question, retriever)
    episode = Episode("s3", question.text, teacher, teacher, _Nobody())
    await s3.search(episode, parameters)
    return episode.spans


class _Nobody:
    """The generator of an episode that ends with its search."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        raise GeneratorError(Failure.UNSUPPORTED, "the teacher asks no generator")


class _Shuffled:
    """A retriever without its order: a model that always sees it learns to keep the first and to read nothing."""

    def __init__(self, retriever: Retriever, seed: str) -> None:
        self._retriever, self._order = retriever, random.Random(seed)

    async def search(
        self, queries: Sequence[str], top_k: int, index: str, mode: Mode, rerank: int = 0
    ) -> list[tuple[Passage, ...]]:
        found = await self._retriever.search(queries, top_k, index, mode, rerank)
        return [tuple(self._order.sample(passages, len(passages))) for passages in found]


async def lesson(
    what: str, question: Question, retriever: Retriever, parameters: s3.S3Params, seed: int
) -> list[list[Span]]:
    """The examples of one question, none where the gold passage is not found. Raises RetrieverError."""
    if what == "searching":
        shuffled = [_Shuffled(retriever, f"{seed} {number} {question.id}") for number in range(2)]
        return [await searching(question, order, parameters) for order in (retriever, *shuffled)]
    (found,) = await retriever.search([question.text], _DEPTH, parameters.index, parameters.mode)
    gold = next((passage for passage in found if passage.id in question.passage_ids), None)
    others = [passage for passage in found if passage != gold and not span_match(passage.text, question.golds)]
    return reading(question, gold, others, seed) if gold else []


async def lessons(
    what: str, asked: Sequence[Question], retriever: Retriever, parameters: s3.S3Params, seed: int
) -> list[list[Span]]:
    """The examples of all questions, in their order. Raises RetrieverError, EvaluateProblem for none."""
    from tqdm import tqdm

    if not asked:
        raise EvaluateProblem("there is no question in that part")

    found: dict[str, list[list[Span]]] = {}
    with tqdm(total=len(asked), unit="question") as bar:

        async def work(question: Question) -> None:
            found[question.id] = await lesson(what, question, retriever, parameters, seed)
            bar.update()

        await each(asked, work, _AT_ONCE)
    return [example for question in asked for example in found[question.id]]


def write(examples: Sequence[Sequence[Span]], out: Path) -> None:
    """The file that `services.trainer.supervised` reads."""
    lines = ({"spans": [[span.author, span.text] for span in example]} for example in examples)
    out.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="services.trainer.teach", description=__doc__)
    parser.add_argument("what", choices=("reading", "searching"))
    parser.add_argument("--questions", required=True, metavar="SET", help="as search-agent evaluate takes them")
    parser.add_argument(
        "--part",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="of articles (default: all)",
    )
    parser.add_argument("--retriever", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--index", default="", help="default: the retriever's default index")
    parser.add_argument("--observation-chars", type=int, default=6000, help="of a block (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    parameters = replace(s3.S3Params(), index=args.index, observation_chars=args.observation_chars)

    async def run() -> list[list[Span]]:
        retriever = GrpcRetriever(args.retriever, timeout_s=30)
        try:
            asked = part(question_sets.load(args.questions), *args.part)
            return await lessons(args.what, asked, retriever, parameters, args.seed)
        finally:
            await retriever.close()

    try:
        write(examples := asyncio.run(run()), args.out)
        print(f"{args.out}: {len(examples):,} examples")
    except (EvaluateProblem, RetrieverError, OSError) as error:
        raise SystemExit(f"services.trainer.teach: {error}") from None


if __name__ == "__main__":
    main()
