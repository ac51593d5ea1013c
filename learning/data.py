"""From questions to verl's Parquet: naive-RAG scores, the filter, and a validation part of other articles."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from common.files import write_whole
from common.journal import Journal
from common.pool import each
from common.run_config import ConfigProblem, RunConfig
from contracts.v1.generator_pb2 import ModelInfoResponse
from contracts.v1.retriever_pb2 import IndexInfo
from evaluation import questions as question_sets
from learning.episodes import Example, row_of
from search_agent.agents import AGENTS
from search_agent.episode import Episode
from search_agent.errors import BoundaryError, CacheError, Failure, SearcherError
from search_agent.grading.judge import Judge, grade
from search_agent.ports import Generator, Retriever
from search_agent.rag_cache import RagKey
from search_agent.types import Completion, Question, Sampling, Span

TRAIN, VALIDATION, FACTS = "train.parquet", "validation.parquet", "facts.json"
SOURCE = "search"  # verl logs validation as val-aux/SOURCE/…
_CONCURRENCY = 64


class RetrieverService(Retriever, Protocol):
    async def indexes(self) -> Sequence[IndexInfo]: ...


class GeneratorService(Generator, Protocol):
    async def info(self) -> ModelInfoResponse: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rows' naive-RAG scores are of. Rows of other facts would be wrong rewards.

    `reranker` is empty where the run's searches are not reranked.
    """

    index: str
    index_version: str
    encoder: str
    generator: str
    judge: dict[str, str] | None
    reranker: str = ""

    @classmethod
    async def of(
        cls, run: RunConfig, retriever: RetrieverService, generator: GeneratorService, judge: Judge | None
    ) -> Facts:
        """What the services serve now. Raises ConfigProblem for an index that is not served, BoundaryError."""
        indexes, model = await asyncio.gather(retriever.indexes(), generator.info())
        for index in indexes:
            if index.name == run.index or (not run.index and index.is_default):
                about = getattr(judge, "facts", None)
                reranker = index.reranker if run.method.params.rerank else ""
                return cls(index.name, index.version, index.encoder, model.model, about, reranker)
        raise ConfigProblem("index", f"the retriever serves no index {run.index!r}")


async def prepare(
    run: RunConfig, folder: Path, retriever: RetrieverService, generator: GeneratorService, judge: Judge | None
) -> None:
    """Makes the files of `folder`, or checks that those there are of the services as they are now.

    The same run, services and seed give the same files. Raises ConfigProblem, EvaluateProblem, BoundaryError.
    """
    facts = await Facts.of(run, retriever, generator, judge)
    if (folder / FACTS).exists():
        before = Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
        if before != facts and run.reward.kind != "exact_match":
            raise ConfigProblem("data", f"the rows are of {before}, and the services serve {facts} now")
        return
    asked = _questions(run)
    if run.reward.coverage_weight and not any(question.gold_passages for question in asked):
        raise ConfigProblem("reward.coverage_weight", "no question names its gold passages")
    training, validation = split(asked, run.data.validation, run.seed)
    if run.reward.kind == "exact_match":
        scores: Mapping[int, Score] = {}
    else:
        scores = await _Scorer(run, folder, facts, retriever, generator, judge).scores(asked)
        # a question that could not be scored is left out: it has no reward
        training, validation = (
            [question for question in half if id(question) in scores] for half in (training, validation)
        )
        training = keep(training, {place: score.right for place, score in scores.items()}, run.data.keep, run.seed)
    if not training or not validation:
        raise ConfigProblem("data", f"leaves {len(training)} questions to train on and {len(validation)} to validate")
    for name, chosen in ((TRAIN, training), (VALIDATION, validation)):
        write(
            folder / name,
            [_row(place, question, facts, scores.get(id(question))) for place, question in enumerate(chosen)],
        )
    write_whole(folder / FACTS, json.dumps(asdict(facts)))


def everything(run: RunConfig) -> list[Question]:
    """All questions of the sets that the run names. Raises EvaluateProblem."""
    return [question for spec in run.data.questions for question in question_sets.load(spec)]


def _questions(run: RunConfig) -> list[Question]:
    return question_sets.pick(question_sets.part(everything(run), *run.data.part), run.data.limit, run.seed)


def split(asked: Sequence[Question], validation: int, seed: int) -> tuple[list[Question], list[Question]]:
    """What to train on, and `validation` questions or a few more, so that no article or gold passage is in both."""
    groups: dict[str, list[Question]] = {}
    for question, source in zip(asked, question_sets.sources(asked), strict=True):
        groups.setdefault(source, []).append(question)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    held: list[Question] = []
    while order and len(held) < validation:
        held += order.pop()
    return [question for group in order for question in group], held


def keep(asked: Sequence[Question], right: Mapping[int, bool], rule: str | float, seed: int) -> list[Question]:
    """All that naive RAG fails, with none, all, or a share (0 to 1) of what it gets right; in the given order.

    `right` is by the identity of the question, since two sets may use one id.
    """
    share = {"naive_rag_fails": 0.0, "all": 1.0}.get(str(rule), rule)
    passed = [id(question) for question in asked if right[id(question)]]
    random.Random(seed).shuffle(passed)
    chosen = set(passed[: round(float(share) * len(passed))])
    return [question for question in asked if not right[id(question)] or id(question) in chosen]


@dataclass(frozen=True, slots=True)
class Score:
    """Naive RAG's GenAcc, and the digest under which its answer is kept."""

    key: str
    gen_acc: float

    @property
    def right(self) -> bool:
        return bool(self.gen_acc)


@dataclass(frozen=True, slots=True)
class _Made:
    """A line of the run's journal of scores."""

    key: str
    id: str
    gen_acc: float


Look = Callable[[str, str], Awaitable[Mapping[str, Any] | None]]  # (digest, question id) -> a stored score


class _Scorer:
    """Naive-RAG scores: of `precompute` where it has them, of this run's journal, or made now."""

    def __init__(
        self,
        run: RunConfig,
        folder: Path,
        facts: Facts,
        retriever: Retriever,
        generator: Generator,
        judge: Judge | None,
    ) -> None:
        self._run, self._facts, self._judge = run, facts, judge
        self._retriever, self._generator = retriever, generator
        searches = run.method.params  # the gain is the searcher's, not that of what ranks for it
        self._agent = AGENTS["naive_rag"].with_params(
            {
                "top_k": run.reward.rag_documents,
                "index": run.index,
                "mode": str(searches.mode),
                "rerank": searches.rerank,
            }
        )
        self._journal_path = folder / "naive_rag.jsonl"

    async def scores(self, asked: Sequence[Question]) -> dict[int, Score]:
        """By the identity of the question. Raises ConfigProblem if more fail than the run allows."""
        journal = Journal(self._journal_path, _Made)
        made = {(line.key, line.id): line.gen_acc for line in journal.found}
        look, close = await _store(self._run.data.scores)
        found: dict[int, Score] = {}
        failures: Counter[str] = Counter()

        async def work(question: Question) -> None:
            key = self._key(question)
            if (key, question.id) in made:
                found[id(question)] = Score(key, made[key, question.id])
                return
            stored = await look(key, question.id)
            if stored and (stored["golds"], stored["judge"]) == (list(question.golds), self._facts.judge):
                found[id(question)] = Score(key, float(stored["gen_acc"]))
                return
            try:
                score = await self._score(question)
            except BoundaryError as error:
                failures[f"{error.boundary}: {error}"] += 1
                return
            journal.append(asdict(_Made(key, question.id, score)))
            found[id(question)] = Score(key, score)

        try:
            await each(asked, work, _CONCURRENCY)
        finally:
            journal.close()
            await close()
        if sum(failures.values()) > self._run.reward.max_failed_share * len(asked):
            why = "; ".join(f"{count} × {reason}" for reason, count in failures.most_common(3))
            raise ConfigProblem(
                "data", f"naive RAG failed for {sum(failures.values())} of {len(asked)} questions: {why}"
            )
        return found

    def _key(self, question: Question) -> str:
        facts = self._facts
        return RagKey.of(
            self._agent.params,
            self._agent.prompt,
            question.text,
            question.options,
            None,
            reranker=facts.reranker,
            corpus=facts.index,
            index_version=facts.index_version,
            encoder=facts.encoder,
            generator=facts.generator,
            max_tokens=self._run.reward.answer_tokens,
        ).digest()

    async def _score(self, question: Question) -> float:
        episode = Episode("naive_rag", question.text, self._retriever, _Nobody(), self._generator, question.options)
        trajectory = await self._agent.answered(episode, Sampling(max_tokens=self._run.reward.answer_tokens))
        return await grade(question, trajectory.answer or "", self._judge)


class _Nobody:
    """The searcher of naive RAG, which has none."""

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        raise SearcherError(Failure.UNSUPPORTED, "naive RAG asks no searcher")


async def _store(scores: str) -> tuple[Look, Callable[[], Awaitable[None]]]:
    """How to look a score up, and what to close then. Raises ConfigProblem."""

    async def nothing(*_: str) -> None:
        return None

    if not scores:
        return nothing, nothing
    if "://" in scores:
        from common.rag_store import RagStore

        store = RagStore(scores, ttl_s=1, timeout_s=10)
        try:
            await store.check()
        except CacheError as error:
            raise ConfigProblem("data.scores", str(error)) from None
        return store.score_of, store.close
    stored = _read_scores(Path(scores))

    async def look(key: str, question_id: str) -> Mapping[str, Any] | None:
        return stored.get((key, question_id))

    return look, nothing


def _read_scores(path: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["key", "question_id", "score"]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigProblem("data.scores", f"{path}: {error}") from None
    return {(row["key"], row["question_id"]): json.loads(row["score"]) for row in table}


def _row(place: int, question: Question, facts: Facts, score: Score | None) -> dict[str, Any]:
    """A row as verl's dataset reads it. What the rollout needs is one JSON text, which no layer between changes."""
    example = Example(question, score.gen_acc if score else None, facts.generator)
    return {
        "data_source": SOURCE,
        "prompt": [{"role": "user", "content": question.text}],
        "agent_name": "search_agent",
        "reward_model": {"style": "rule", "ground_truth": json.dumps(row_of(example), ensure_ascii=False)},
        "extra_info": {
            "index": place,
            "id": question.id,
            "rag_gen_acc": score.gen_acc if score else None,
            "rag_key": score.key if score else "",
        },
    }


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as Parquet, in whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), draft)
    draft.replace(path)
