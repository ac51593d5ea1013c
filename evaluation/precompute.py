"""Fills the naive-RAG cache for training with the answer and score of every question."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from common.pool import each
from common.rag_store import RagStore, Score
from evaluation.endpoints import Endpoints
from evaluation.errors import EvaluateProblem, Failed
from evaluation.gateway import Gateway
from evaluation.rows import Grader
from search_agent.errors import Failure, JudgeError
from search_agent.types import Question


class Scorer:
    """Has one question answered and stores its score, here or in Ray's actors.

    The gateway's naive RAG keeps each result under its key; the score goes beside it. `parameters` are naive RAG's.
    """

    def __init__(self, gateway: Gateway, grader: Grader, store: RagStore, parameters: Mapping[str, object]) -> None:
        self._gateway, self._grader, self._store, self._parameters = gateway, grader, store, parameters

    async def __call__(self, question: Question) -> tuple[bool, bool]:
        """Returns whether naive RAG is right, and whether that was known before. Calling it again changes nothing.

        Raises Failed, JudgeError; EvaluateProblem if the gateway's cache is elsewhere, CacheError if Redis fails.
        """
        answer = await self._gateway.answer(
            question=question.text, method="naive_rag", options=dict(question.options), **self._parameters
        )
        key = answer.cache_key
        if not key:
            raise Failed("cache", Failure.UNAVAILABLE, "the gateway could not keep the result")
        found = await self._store.score_of(key, question.id)
        facts = self._grader.facts
        if found and found.holds(question.golds, **facts):
            return bool(found.gen_acc), True
        row = await self._grader(question, "naive_rag", 0, answer)
        scores = {name: getattr(row, name) for name in ("answer", "gen_acc", "span", "judged", "exact_match", "f1")}
        score = Score(question=question.text, golds=question.golds, **facts, **scores)
        if not await self._store.score(key, question.id, score):
            raise EvaluateProblem("the gateway keeps its results in another Redis than --redis")
        return bool(row.gen_acc), False


@asynccontextmanager
async def storing(redis: str) -> AsyncIterator[RagStore]:
    """Opens the store at a Redis URL. Only scores are written, which do not expire."""
    store = RagStore(redis, ttl_s=1, timeout_s=10)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def scoring(endpoints: Endpoints, redis: str, parameters: Mapping[str, object]) -> AsyncIterator[Scorer]:
    """Opens a scorer with connections of its own."""
    async with endpoints.open() as (gateway, grader), storing(redis) as store:
        yield Scorer(gateway, grader, store, parameters)


@dataclass(frozen=True)
class Outcome:
    """`known` counts the questions scored before; `wrong` are those that naive RAG gets wrong, in order."""

    right: int
    wrong: Sequence[Question]
    known: int
    failures: Counter[str]


async def precompute(
    questions: Sequence[Question],
    gateway: Gateway,
    store: RagStore,
    score: Callable[[Question], Awaitable[tuple[bool, bool]]],
    concurrency: int,
    advance: Callable[[bool], None],
    index: str = "",
) -> Outcome:
    """Scores every question with `score`, a Scorer here or elsewhere, which asks `index` or the default one.

    Questions answered before, by the models and index served now, come from the cache, so that a killed run resumes and
    no stale result is used. Raises EvaluateProblem if the gateway has no cache or a different one, or caches nothing of
    the index, and CacheError if Redis fails.
    """
    await gateway.check_cache(index)
    await store.check()
    right: dict[str, bool] = {}
    failures: Counter[str] = Counter()
    known = 0

    async def work(question: Question) -> None:
        nonlocal known
        try:
            right[question.id], before = await score(question)
            known += before
        except (Failed, JudgeError) as error:
            failures[f"{error.boundary}: {error.failure}"] += 1
        advance(question.id not in right)

    await each(questions, work, concurrency)
    wrong = [question for question in questions if right.get(question.id) is False]
    return Outcome(sum(right.values()), wrong, known, failures)
