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
    question: Question, gold: Sequence[Passage], others: Sequence[Passage], unknown: float, seed: int
) -> list[list[Span]]:
    """Returns up to five examples, whose passages are in any order.

    Four have all of `gold`: alone, and among 1, 2 and up to 7 of `others`. For a share of the questions, `unknown`,
    a fifth lacks one gold passage, has up to 3 of `others` in its place, and is answered with UNKNOWN. `others` hold no
    gold answer. The answer to learn is the shortest gold answer that stands in a gold passage.
    """
    order = random.Random(f"{seed} {question.id}")
    held = [each for each in question.golds if any(span_match(passage.text, [each]) for passage in gold)]
    answer = min(held, key=len, default=question.golds[0])

    def example(passages: Sequence[Passage], reply: str) -> list[Span]:
        prompt = answer_prompt("answer", question.text, order.sample(passages, len(passages)))
        return [Span(Author.ENVIRONMENT, prompt), Span(Author.POLICY, reply)]

    def some_others(count: int) -> list[Passage]:
        return order.sample(others, min(count, len(others)))

    made = [example([*gold, *some_others(count)], answer) for count in (0, 1, 2, order.randint(3, MOST_OTHERS))]
    incomplete = [*order.sample(gold, len(gold) - 1), *some_others(order.randint(1, 3))]
    if incomplete and order.random() < unknown:
        made.append(example(incomplete, UNKNOWN))
    return made
