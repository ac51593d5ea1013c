"""Answers of POST /v1/answer as rows, and rows as figures.

A failed question has no row: it is counted, and never scored as a wrong answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_agent.grading import answers
from search_agent.grading.statistics import Estimate, bootstrap, percentile
from search_agent.types import Question

RECALL_AT = (1, 3, 5, 10)


@dataclass(frozen=True, slots=True)
class Row:
    """One question answered by one method and scored; scores are 0.0 to 1.0.

    `budget` is the passage budget, 0 for the method's own setting. `judged` is the judge's verdict, None
    where it was not asked. Ranks count the documents the generator read from 1, and are 0 where none fits;
    `passage_rank` and `passage_seen` (retrieved in any turn) are None where no gold passage is known.
    `milliseconds` is the gateway's time, None for an answer from its cache.
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
    passage_rank: int | None
    passage_seen: bool | None
    answer_rank: int
    documents: int
    searches: int
    prompt_tokens: int
    completion_tokens: int
    malformed: int
    milliseconds: float | None
    stop_reason: str
    models: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def row_of(question: Question, method: str, budget: int, body: Mapping[str, Any], judged: bool | None = None) -> Row:
    """Scores the body of an answer; `judged` is what the judge said of it, if it was asked."""
    answer, documents, usage = body["answer"], body["documents"], body["usage"]
    golds = [question.options[question.choice]] if question.options else question.golds
    span = answers.matches(question, answer)
    known = set(question.passage_ids)
    seen = {passage for turn in body["turns"] for passage in turn["retrieved"]}
    return Row(
        id=question.id,
        method=method,
        budget=budget,
        answer=answer,
        gen_acc=max(span, float(judged or False)),
        span=span,
        judged=judged,
        exact_match=answers.exact_match(answer, question.golds),
        f1=answers.f1(answer, question.golds),
        passage_rank=_rank(documents, lambda document: document["id"] in known) if known else None,
        passage_seen=bool(known & seen) if known else None,
        answer_rank=_rank(documents, lambda document: bool(answers.span_match(document["text"], golds))),
        documents=len(documents),
        searches=usage["searches"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        malformed=sum(bool(turn["error"]) for turn in body["turns"]),
        milliseconds=None if body["cached"] else body["timings_ms"]["total"],
        stop_reason=body["stop_reason"],
        models=tuple(body["models"]),
    )


def _rank(documents: Sequence[Mapping[str, Any]], fits: Callable[[Mapping[str, Any]], bool]) -> int:
    return next((rank for rank, document in enumerate(documents, 1) if fits(document)), 0)


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of questions with a gold passage, or a gold answer, among the first `k` documents read."""

    k: int
    passage: float | None
    answer: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A method's figures over its rows. Means are per question; times are milliseconds at the gateway
    without cached answers, None if all were; `cost` is None where no price was given."""

    count: int
    gen_acc: Estimate
    span: float
    judged: int
    exact_match: Estimate
    f1: Estimate
    recall: tuple[Recall, ...]
    passage_seen: float | None
    documents: float
    searches: float
    tokens: float
    cost: float | None
    p50_ms: float | None
    p95_ms: float | None
    malformed: int
    models: tuple[str, ...]


def summarise(rows: Sequence[Row], seed: int, price: tuple[float, float] | None = None) -> Summary:
    """Figures of rows (not empty) of one method; `price` is of a million prompt and completion tokens."""
    rows = sorted(rows, key=lambda row: row.id)  # the order of arrival must not move the intervals
    known = [row for row in rows if row.passage_rank is not None]
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
                statistics.fmean(0 < (row.passage_rank or 0) <= k for row in known) if known else None,
                statistics.fmean(0 < row.answer_rank <= k for row in rows),
            )
            for k in RECALL_AT
        ),
        passage_seen=statistics.fmean(bool(row.passage_seen) for row in known) if known else None,
        documents=statistics.fmean(row.documents for row in rows),
        searches=statistics.fmean(row.searches for row in rows),
        tokens=statistics.fmean(row.tokens for row in rows),
        cost=statistics.fmean(spent) if spent else None,
        p50_ms=percentile(times, 50) if times else None,
        p95_ms=percentile(times, 95) if times else None,
        malformed=sum(row.malformed for row in rows),
        models=tuple(sorted({model for row in rows for model in row.models})),
    )
