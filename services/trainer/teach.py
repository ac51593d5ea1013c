"""Examples to learn from before reinforcement, made by a teacher that knows the gold passages.

For the reading adapter: reading the gold passage alone, among others, and others alone, where the reader says
that it does not know. For a searcher's warm start: the s3 agent itself, with the teacher as its policy, so
that the examples are episodes as they are served and trained.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from search_agent import tags
from search_agent.agents import s3
from search_agent.episode import Episode, answer_prompt
from search_agent.evaluate import Question
from search_agent.ports import Generator, Retriever
from search_agent.scoring import span_match
from search_agent.types import Author, Completion, Mode, Passage, Sampling, Span

UNKNOWN = "I do not know."


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
        return Completion(tags.render_move(tags.Move((self._best(),), complete=True)))

    def _best(self) -> int:
        """The number of the gold passage, else of the first that holds a gold answer, else 1: the best guess."""
        golds = [n for n, passage in enumerate(self._block, 1) if passage.id in self._question.passage_ids]
        holding = (n for n, passage in enumerate(self._block, 1) if span_match(passage.text, self._question.golds))
        return golds[0] if golds else next(holding, 1)


async def searching(
    question: Question, retriever: Retriever, generator: Generator, parameters: s3.S3Params
) -> list[Span]:
    """The teacher's episode on a question. Raises RetrieverError."""
    teacher = Teacher(question, retriever)
    episode = Episode("s3", question.text, teacher, teacher, generator)
    await s3.search(episode, parameters)
    return episode.spans
