"""Grading with a judge: the grade of an answer, the judge's prompt, and its verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from search_agent import prompts
from search_agent.episode import with_options
from search_agent.errors import Failure, JudgeError
from search_agent.grading.answers import Scoring, matches
from search_agent.tags import as_text, render_documents
from search_agent.types import Passage, Question
from search_agent.world import Judge

_EVIDENCE_CHARS = 24_000  # of all passages together, so that a judgement has a highest price
_OPENING = re.compile(r"\W*(yes|no)\b[*_`'\"]*(?:[.,:;!\n]|\s*[-–—(]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ruling:
    """A judge's reply about an answer, and the tokens that it read and wrote for it."""

    reply: str
    tokens: int

    @property
    def is_right(self) -> bool:
        """Whether the judge says yes. Raises JudgeError as `verdict` does; the tokens are spent all the same."""
        return verdict(self.reply)


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade of an answer.

    `span` is GenAcc without a judge; `judged` is the verdict, None if the judge was not asked.
    """

    span: float
    judged: bool | None = None

    @property
    def gen_acc(self) -> float:
        """1.0 if a gold answer stands in the answer or, failing that, if the judge says so, else 0.0."""
        return max(self.span, float(self.judged or False))


async def grade(question: Question, answer: str, judge: Judge | None, scoring: Scoring = Scoring.UNICODE) -> Grade:
    """Grades an answer. The judge, if there is one, decides where no gold answer stands in it. Raises JudgeError."""
    span = matches(question, answer, scoring)
    return Grade(span, await judge(question, answer) if judge and not span else None)


def judge_prompt(question: Question, answer: str) -> str:
    """Returns the judge's prompt about an answer that contains no gold answer."""
    return prompts.render(
        "judge", question=as_text(question.text), golds=" | ".join(question.golds), answer=as_text(answer)
    )


def passages_prompt(question: Question, passages: Sequence[Passage], answer: str) -> str:
    """Returns the judge's prompt about an answer for which passages, but no gold answers, are known."""
    return prompts.render(
        "judge_passages",
        documents=render_documents(passages, _EVIDENCE_CHARS),
        question=as_text(with_options(question.text, question.options)),
        answer=as_text(answer),
    )


def verdict(reply: str) -> bool:
    """Returns whether the judge says yes. Raises JudgeError if it says neither yes nor no, or both.

    A yes or no that opens the reply and ends a phrase decides alone: "Yes. No contradiction is present." is a yes.
    """
    if opening := _OPENING.match(reply):
        return opening[1].lower() == "yes"
    said = {word for word in re.findall(r"[a-z]+", reply.lower()) if word in ("yes", "no")}
    if len(said) != 1:
        raise JudgeError(Failure.BROKEN, f"neither yes nor no: {reply[:100]!r}")
    return said == {"yes"}
