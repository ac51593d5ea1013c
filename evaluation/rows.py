"""Rows of graded answers, and the figures of rows.

A failed question has no row: it is counted, and never scored as a wrong answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.judge import JudgeEndpoint
from search_agent.grading import answers
from search_agent.grading.answers import Scoring
from search_agent.grading.evidence import coverage, gold_ranks
from search_agent.grading.judge import Grade, grade
from search_agent.grading.statistics import Estimate, bootstrap, percentile
from search_agent.types import Question
from search_agent_client import Answer

RECALL_AT = (1, 3, 5, 10)


@dataclass(frozen=True, slots=True)
class Row:
    """One question answered by one method and scored; scores are 0.0 to 1.0.

    `budget` is the passage budget, 0 for the method's own setting. `judged` is the judge's verdict, None if it was not
    asked. Ranks count the documents the generator read from 1, and are 0 where none fits. `gold_ranks` has the rank of
    each gold passage, and `gold_seen` is the share of them that some turn retrieved; they are empty and None where no
    gold passage is known. `milliseconds` is the gateway's time, None for an answer from its cache. `scoring` names the
    rules of the scores. `truncated`: a model was shown less of the passages than requested, for lack of room. `groups`
    are the question's.
    """

    id: str
    method: str
    budget: int
    answer: str
    gen_acc: float
    span: float
    judged: bool | None
    exact_match: float
    f1: float
    gold_ranks: tuple[int, ...]
    gold_seen: float | None
    answer_rank: int
    documents: int
    searches: int
    prompt_tokens: int
    completion_tokens: int
    malformed: int
    milliseconds: float | None
    stop_reason: str
    scoring: str
    truncated: bool = False
    models: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def coverage(self) -> float:
        """Returns the share of the gold passages (at least one is known) that the generator read."""
        return statistics.fmean(map(bool, self.gold_ranks))

    def has_all(self, k: int) -> bool:
        """Returns whether all gold passages are among the first `k` documents that the generator read."""
        return all(0 < rank <= k for rank in self.gold_ranks)


class Grader:
    """Grades answers by the rules of `scoring`. The judge, if there is one, decides where no gold answer is found."""

    def __init__(self, scoring: Scoring, judge: JudgeEndpoint | None) -> None:
        self._scoring, self._judge = scoring, judge

    @property
    def facts(self) -> dict[str, Any]:
        """Returns what scores depend on beside the question and the answer, for the records."""
        return {"scoring": str(self._scoring), "judge": self._judge.facts if self._judge else None}

    async def __call__(self, question: Question, method: str, budget: int, answer: Answer) -> Row:
        """Grades an answer. Raises JudgeError."""
        graded = await grade(question, answer.answer, self._judge, self._scoring)
        return row_of(question, method, budget, answer, graded.judged, self._scoring)


def row_of(
    question: Question,
    method: str,
    budget: int,
    answer: Answer,
    judged: bool | None = None,
    scoring: Scoring = Scoring.UNICODE,
) -> Row:
    """Scores an answer. `judged` is the judge's verdict, or None if it was not asked."""
    documents, usage = answer.documents, answer.usage
    golds = [question.options[question.choice]] if question.options else question.golds
    graded = Grade(answers.matches(question, answer.answer, scoring), judged)
    needed = question.gold_passages
    seen = [passage for turn in answer.turns for passage in turn.retrieved]
    return Row(
        id=question.id,
        method=method,
        budget=budget,
        answer=answer.answer,
        gen_acc=graded.gen_acc,
        span=graded.span,
        judged=graded.judged,
        exact_match=answers.exact_match(answer.answer, question.golds, scoring),
        f1=answers.f1(answer.answer, question.golds, scoring),
        gold_ranks=gold_ranks(needed, [document.id for document in documents]),
        gold_seen=coverage(needed, seen) if needed else None,
        answer_rank=next(
            (n for n, each in enumerate(documents, 1) if answers.span_match(each.text, golds, scoring)), 0
        ),
        documents=len(documents),
        searches=usage.searches,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        malformed=sum(bool(turn.error) for turn in answer.turns),
        milliseconds=None if answer.cached else answer.timings_ms.total,
        stop_reason=answer.stop_reason,
        scoring=str(scoring),
        truncated=answer.truncated,
        models=answer.models,
        groups=dict(question.groups),
    )


@dataclass(frozen=True, slots=True)
class Recall:
    """Shares of questions with all gold passages, and with a gold answer, among the first `k` documents read.

    `gold` is None where no gold passage is known.
    """

    k: int
    gold: float | None
    answer: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A method's figures over its rows.

    Means are per question. `coverage` is the mean share of the gold passages that the generator read; `gold_seen` and
    `gold_kept` are the shares of questions of which some turn retrieved, and the generator read, all of them. The three
    are None where no gold passage is known. Times are milliseconds at the gateway without cached answers, None if
    all were cached; `cost` is None where no price was given.
    """

    count: int
    gen_acc: Estimate
    span: float
    judged: int
    exact_match: Estimate
    f1: Estimate
    recall: tuple[Recall, ...]
    coverage: float | None
    gold_seen: float | None
    gold_kept: float | None
    documents: float
    searches: float
    tokens: float
    cost: float | None
    p50_ms: float | None
    p95_ms: float | None
    malformed: int
    truncated: int
    models: tuple[str, ...]


def summarise(rows: Sequence[Row], seed: int, price: tuple[float, float] | None = None) -> Summary:
    """Summarises the rows (at least one) of a method. `price` is per million prompt and completion tokens."""
    rows = sorted(rows, key=lambda row: row.id)  # intervals must not depend on the order of arrival
    known = [row for row in rows if row.gold_ranks]
    times = sorted(row.milliseconds for row in rows if row.milliseconds is not None)
    spent = [(row.prompt_tokens * price[0] + row.completion_tokens * price[1]) / 1e6 for row in rows] if price else []
    return Summary(
        count=len(rows),
        gen_acc=bootstrap([row.gen_acc for row in rows], seed),
        span=statistics.fmean(row.span for row in rows),
        judged=sum(row.judged is not None for row in rows),
        exact_match=bootstrap([row.exact_match for row in rows], seed),
        f1=bootstrap([row.f1 for row in rows], seed),
        recall=tuple(
            Recall(
                k,
                statistics.fmean(row.has_all(k) for row in known) if known else None,
                statistics.fmean(0 < row.answer_rank <= k for row in rows),
            )
            for k in RECALL_AT
        ),
        coverage=statistics.fmean(row.coverage for row in known) if known else None,
        gold_seen=statistics.fmean(row.gold_seen == 1 for row in known) if known else None,
        gold_kept=statistics.fmean(row.has_all(row.documents) for row in known) if known else None,
        documents=statistics.fmean(row.documents for row in rows),
        searches=statistics.fmean(row.searches for row in rows),
        tokens=statistics.fmean(row.tokens for row in rows),
        cost=statistics.fmean(spent) if spent else None,
        p50_ms=percentile(times, 50) if times else None,
        p95_ms=percentile(times, 95) if times else None,
        malformed=sum(row.malformed for row in rows),
        truncated=sum(row.truncated for row in rows),
        models=tuple(sorted({model for row in rows for model in row.models})),
    )
