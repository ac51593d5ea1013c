"""Fills the naive-RAG cache for training: retrieval, answer and score of every question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search_agent.errors import Failure, JudgeError
from search_agent.evaluate import Question, matches, row_of
from services.common.rag_store import RagStore
from services.evaluate.errors import EvaluateProblem, Failed
from services.evaluate.gateway import Gateway
from services.evaluate.judge import Judge
from services.evaluate.pool import each


@dataclass(frozen=True)
class Outcome:
    """`known` of the questions were scored before; `wrong` are those that naive RAG fails, in order."""

    right: int
    wrong: Sequence[Question]
    known: int
    failures: Counter[str]


async def precompute(
    questions: Sequence[Question],
    gateway: Gateway,
    store: RagStore,
    judge: Judge | None,
    fields: Mapping[str, object],
    concurrency: int,
    advance: Callable[[bool], None],
) -> Outcome:
    """Asks the gateway's naive RAG, which keeps each result under its key, and scores it beside it.

    A question that was answered before comes from the cache, under the versions in force now, so that a
    killed run goes on and a stale result is not taken over. `fields` are more fields of POST /v1/answer.
    Raises EvaluateProblem if the gateway has no cache or a cache elsewhere, CacheError if Redis fails.
    """
    await gateway.check_cache()
    await store.check()
    facts = judge.facts if judge else None
    right: dict[str, bool] = {}
    failures: Counter[str] = Counter()
    known = 0

    async def score(question: Question) -> bool:
        nonlocal known
        answer = await gateway.answer(
            {"question": question.text, "method": "naive_rag", "options": dict(question.options), **fields}
        )
        key = answer["cache_key"]
        if not key:
            raise Failed("cache", Failure.UNAVAILABLE, "the gateway could not keep the result")
        found = await store.score_of(key, question.id)
        if found and (found["golds"], found["judge"]) == (list(question.golds), facts):
            known += 1
            return bool(found["gen_acc"])
        judged = None
        if judge and not matches(question, answer["answer"]):
            judged = await judge(question, answer["answer"])
        row = asdict(row_of(question, "naive_rag", 0, answer, judged))
        names = ("answer", "gen_acc", "span", "judged", "exact_match", "f1")
        record: dict[str, Any] = {"question": question.text, "golds": question.golds, "judge": facts}
        if not await store.score(key, question.id, record | {name: row[name] for name in names}):
            raise EvaluateProblem("the gateway keeps its results in another Redis than --redis")
        return bool(row["gen_acc"])

    async def work(question: Question) -> None:
        try:
            right[question.id] = await score(question)
        except (Failed, JudgeError) as error:
            failures[f"{error.boundary}: {error.failure}"] += 1
        advance(question.id not in right)

    await each(questions, work, concurrency)
    wrong = [question for question in questions if right.get(question.id) is False]
    return Outcome(sum(right.values()), wrong, known, failures)
