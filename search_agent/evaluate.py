"""Evaluation without I/O: an answer of POST /v1/answer as a row, rows as figures, methods compared.

A failed question has no row: it is counted, and never scored as a wrong answer.
"""

from __future__ import annotations

import math
import random
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from search_agent import prompts, scoring
from search_agent.errors import Failure, JudgeError

RESAMPLES = 1000
RECALL_AT = (1, 3, 5, 10)
_CHOSEN = re.compile(r"\W*(?:(?:option|answer)\W+)?([A-Za-z])\s*(?:[).:\]]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold answers.

    `passage_ids` are the gold passages, and `article` is the title of what they are from, where they are known.
    `options` (text by letter) make it multiple choice; `choice` is then the right letter.
    """

    id: str
    text: str
    golds: tuple[str, ...]
    passage_ids: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    choice: str = ""
    article: str = ""


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


def matches(question: Question, answer: str) -> float:
    """GenAcc without a judge: 1.0 if a gold answer stands in the answer, or the right option is chosen."""
    if question.options:
        return float(chosen(answer, question.options) == question.choice)
    return scoring.span_match(answer, question.golds)


def chosen(answer: str, options: Mapping[str, str]) -> str:
    """The letter of the option that an answer names, by letter or by text; empty if by none or several."""
    if (found := _CHOSEN.match(answer)) and found[1].upper() in options:
        return found[1].upper()
    named = [letter for letter, text in options.items() if scoring.span_match(answer, [text])]
    # of "atrial flutter" and "flutter" the longer one is meant
    inside = {a for a in named for b in named if a != b and scoring.span_match(options[b], [options[a]])}
    meant = [letter for letter in named if letter not in inside]
    return meant[0] if len(meant) == 1 else ""


def judge_prompt(question: Question, answer: str) -> str:
    """What a judge is asked about an answer in which no gold answer stands."""
    return prompts.render("judge", question=question.text, golds=" | ".join(question.golds), answer=answer)


def verdict(reply: str) -> bool:
    """The judge's yes or no. Raises JudgeError for anything else."""
    words = re.findall(r"[a-z]+", reply.lower())
    said = {word for word in words if word in ("yes", "no")}
    if len(said) != 1:
        raise JudgeError(Failure.BROKEN, f"neither yes nor no: {reply[:100]!r}")
    return said == {"yes"}


def row_of(question: Question, method: str, budget: int, body: Mapping[str, Any], judged: bool | None = None) -> Row:
    """Scores the body of an answer; `judged` is what the judge said of it, if it was asked."""
    answer, documents, usage = body["answer"], body["documents"], body["usage"]
    golds = [question.options[question.choice]] if question.options else question.golds
    span = matches(question, answer)
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
        exact_match=scoring.exact_match(answer, question.golds),
        f1=scoring.f1(answer, question.golds),
        passage_rank=_rank(documents, lambda document: document["id"] in known) if known else None,
        passage_seen=bool(known & seen) if known else None,
        answer_rank=_rank(documents, lambda document: bool(scoring.span_match(document["text"], golds))),
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
class Estimate:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> Estimate:
    """The mean of `values` (not empty) and the percentiles 2.5 and 97.5 of the means of resamples."""
    source, count = random.Random(seed), len(values)
    means = sorted(sum(source.choices(values, k=count)) / count for _ in range(resamples))
    tail = int(resamples * 0.025)
    return Estimate(sum(values) / count, means[tail], means[-1 - tail])


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method against a baseline on the `count` questions that both answered.

    `difference` is of GenAcc. `wins` and `losses` count the questions that only the one, or only the other,
    got right; `p` is the exact two-sided sign test over them (McNemar).
    """

    count: int
    difference: Estimate
    wins: int
    losses: int
    p: float


class Scored(Protocol):
    """What is compared: a question's id and the GenAcc of an answer to it."""

    @property
    def id(self) -> str: ...
    @property
    def gen_acc(self) -> float: ...


def compare(
    ours: Iterable[Scored], baseline: Iterable[Scored], seed: int, resamples: int = RESAMPLES
) -> Comparison | None:
    """Paired by question id; None if no question was answered by both."""
    theirs = {row.id: row.gen_acc for row in baseline}
    pairs = [(row.gen_acc, theirs[row.id]) for row in sorted(ours, key=lambda row: row.id) if row.id in theirs]
    if not pairs:
        return None
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    difference = bootstrap([a - b for a, b in pairs], seed, resamples)
    return Comparison(len(pairs), difference, wins, losses, _sign_test(wins, losses))


def _sign_test(wins: int, losses: int) -> float:
    trials = wins + losses
    tail = sum(math.comb(trials, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / (1 << trials))


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


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of ascending values (not empty)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
