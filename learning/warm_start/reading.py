"""Examples for a reading adapter: answering from the gold passages, and saying so where one of them is missing."""

from __future__ import annotations

import random
from collections.abc import Sequence

from search_agent.episode import answer_prompt
from search_agent.grading.answers import span_match
from search_agent.types import Author, Passage, Question, Span

UNKNOWN = "I do not know."
MOST_OTHERS = 7  # in an example


def examples(
    question: Question,
    gold: Sequence[Passage],
    named: Sequence[Passage],
    others: Sequence[Passage],
    unknown: float,
    seed: int,
) -> list[list[Span]]:
    """Returns up to five examples.

    Four have all of `gold`: alone, with one and two passages about what they name (`named`), and among up to 7 of any.
    For a share of the questions, `unknown`, a fifth lacks one gold passage, has up to 3 others without a gold answer in
    its place, and is answered with UNKNOWN. `others` hold no gold answer, and stand in where too few are named. In half
    of the examples the passages come in the order in which a searcher keeps them: gold ones first, in their order. In
    the other half their order is random. The answer to learn is the shortest gold answer that stands in a gold passage.
    """
    order = random.Random(f"{seed} {question.id}")
    held = [each for each in question.golds if any(span_match(passage.text, [each]) for passage in gold)]
    answer = min(held, key=len, default=question.golds[0])

    def example(passages: Sequence[Passage], reply: str) -> list[Span]:
        shown = passages if order.random() < 0.5 else order.sample(passages, len(passages))
        return [Span(Author.ENVIRONMENT, answer_prompt("answer", question.text, shown)), Span(Author.POLICY, reply)]

    def some(passages: Sequence[Passage], count: int) -> list[Passage]:
        return order.sample(passages, min(count, len(passages)))

    def too_many(count: int) -> list[Passage]:
        first = some(named, count)
        return [*first, *some(others, count - len(first))]

    beside: tuple[list[Passage], ...] = (
        [],
        too_many(1),
        too_many(2),
        some([*named, *others], order.randint(3, MOST_OTHERS)),
    )
    made = [example([*gold, *more], answer) for more in beside]
    unanswered = [passage for passage in [*named, *others] if not span_match(passage.text, question.golds)]
    kept = sorted(order.sample(range(len(gold)), len(gold) - 1))
    incomplete = [*(gold[place] for place in kept), *some(unanswered, order.randint(1, 3))]
    if incomplete and order.random() < unknown:
        made.append(example(incomplete, UNKNOWN))
    return made
