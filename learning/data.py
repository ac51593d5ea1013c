"""Turns questions into verl's Parquet: naive-RAG scores, the filter, and a validation set from other articles."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import rag_store, stored
from common.corpus import read_corpus
from common.files import draft_of, write_whole
from common.journal import Journal
from common.pool import each
from common.run_config import ConfigProblem, RunConfig, TeacherConfig
from evaluation import questions as question_sets
from learning.episodes import Example, row_of
from learning.mixture import mixture
from search_agent.agents import AGENTS
from search_agent.errors import BoundaryError, CacheError, Failure, RetrieverError
from search_agent.grading.answers import Scoring
from search_agent.grading.judge import grade
from search_agent.rag_cache import RagKey
from search_agent.types import IndexInfo, Passage, Question, Sampling
from search_agent.world import World

TRAIN, VALIDATION, FACTS = "train.parquet", "validation.parquet", "facts.json"
SOURCE = "search"  # verl logs validation as val-aux/SOURCE/…
_CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Facts:
    """The services that the rows' naive-RAG scores come from. Scores of other services would be wrong rewards.

    `reranker` is empty if the run does not rerank.
    """

    index: str
    index_version: str
    encoder: str
    generator: str
    judge: dict[str, str] | None
    scoring: str
    reranker: str = ""

    @classmethod
    def of(cls, run: RunConfig, index: IndexInfo, generator: str, world: World) -> Facts:
        about = getattr(world.judge, "facts", None)
        reranker = index.reranker if run.method.params.rerank else ""
        return cls(index.name, index.version, index.encoder, generator, about, str(Scoring.UNICODE), reranker)


async def prepare(run: RunConfig, folder: Path, world: World) -> None:
    """Writes the files of `folder`, or checks that existing ones match the services as they are now.

    The same run, services and seed give the same files. Raises Problem, BoundaryError.
    """
    index, model = await asyncio.gather(_index(run, world), world.generator.info())
    facts = Facts.of(run, index, model.model, world)
    if (folder / FACTS).exists():
        before = stored.read(Facts, (folder / FACTS).read_bytes())
        if before is None:
            raise ConfigProblem("data", f"{folder / FACTS} is damaged or from another version; start the run anew")
        if before != facts and run.reward.kind != "exact_match":
            raise ConfigProblem("data", f"the rows are of {before}, and the services serve {facts} now")
        return
    asked = _questions(run)
    if any(run.reward.coverage_weight.values()) and not any(question.gold_passages for question in asked):
        raise ConfigProblem("reward.coverage_weight", "no question names its gold passages")
    training, validation = split(asked, run.data.validation, run.seed)
    if run.reward.kind == "exact_match":
        scores: Mapping[int, Score] = {}
    else:
        scores = await _Scorer(run, folder, facts, index, world).scores(asked)
        # a question that could not be scored is left out: it has no reward
        training, validation = (
            [question for question in half if id(question) in scores] for half in (training, validation)
        )
        training = keep(training, {place: score.right for place, score in scores.items()}, run.data.keep, run.seed)
    if not training or not validation:
        raise ConfigProblem("data", f"leaves {len(training)} questions to train on and {len(validation)} to validate")
    if run.data.mixture:
        training = mixture(training, run)
    lessons = _lessons(run.teacher, training) if run.teacher else {}
    for name, chosen, gold in ((TRAIN, training, lessons), (VALIDATION, validation, {})):
        write(
            folder / name,
            [
                _row(place, question, facts, scores.get(id(question)), gold.get(id(question), ()))
                for place, question in enumerate(chosen)
            ],
        )
    write_whole(folder / FACTS, json.dumps(asdict(facts)))


async def _index(run: RunConfig, world: World) -> IndexInfo:
    try:
        found = await world.index(run.index)
    except RetrieverError as error:
        if error.failure is Failure.NOT_FOUND:
            raise ConfigProblem("index", error.message) from None
        raise
    if not found.version and run.reward.kind != "exact_match":
        why = "its answers change, and gains are compared with naive RAG's of before"
        raise ConfigProblem("index", f"{found.name!r} has no version: {why}")
    return found


def everything(run: RunConfig) -> list[Question]:
    """Returns all questions of the sets that the run names. Raises EvaluateProblem."""
    return [question for spec in run.data.questions for question in question_sets.load(spec)]


def gold_in(corpus: Path, asked: Sequence[Question]) -> dict[str, Passage]:
    """Returns the gold passages in a corpus, by id. Raises CorpusProblem."""
    wanted = frozenset[str]().union(*(question.gold_ids for question in asked))
    return {passage.id: passage for passage in read_corpus(corpus) if passage.id in wanted}


def _lessons(teacher: TeacherConfig, asked: Sequence[Question]) -> dict[int, tuple[Passage, ...]]:
    """Returns the known gold passages of the questions that the teacher plays, by the question's identity."""
    chosen = [question for question in asked if teacher.plays(question)]
    if not chosen:
        raise ConfigProblem("teacher.where", f"no question to train on is in {teacher.where}")
    found = gold_in(Path(teacher.corpus), chosen)
    if not found:
        raise ConfigProblem("teacher.corpus", f"{teacher.corpus} has none of the questions' gold passages")
    return {
        id(question): tuple(found[each] for each in sorted(question.gold_ids) if each in found) for question in chosen
    }


def _questions(run: RunConfig) -> list[Question]:
    return question_sets.pick(question_sets.part(everything(run), *run.data.part), run.data.limit, run.seed)


def split(asked: Sequence[Question], validation: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Holds out `validation` questions or a few more, so that no article or gold passage is in both parts.

    Returns the questions to train on, and those held out.
    """
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
    """Returns the questions that naive RAG fails, and none, all or a share (0 to 1) of the others, in order.

    `right` is keyed by the question's identity, because two sets may use one id.
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
    scoring: str


Look = Callable[[str, str], Awaitable[rag_store.Score | None]]  # (digest, question id) -> a stored score


class _Scorer:
    """Finds naive-RAG scores: precomputed ones, those in the run's journal, or new ones."""

    def __init__(self, run: RunConfig, folder: Path, facts: Facts, index: IndexInfo, world: World) -> None:
        self._run, self._facts, self._index, self._world = run, facts, index, world
        self._answer = Sampling(max_tokens=run.reward.answer_tokens)
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
        """Returns scores by the question's identity. Raises ConfigProblem if more fail than the run allows."""
        journal = Journal(self._journal_path, _Made)
        made = {(line.key, line.id): line.gen_acc for line in journal.found if line.scoring == self._facts.scoring}
        look, close = await _store(self._run.data.scores)
        found: dict[int, Score] = {}
        failures: Counter[str] = Counter()

        async def work(question: Question) -> None:
            key = self._key(question)
            if (key, question.id) in made:
                found[id(question)] = Score(key, made[key, question.id])
                return
            before = await look(key, question.id)
            if before and before.holds(question.golds, self._facts.scoring, self._facts.judge):
                found[id(question)] = Score(key, before.gen_acc)
                return
            try:
                score = await self._score(question)
            except BoundaryError as error:
                failures[f"{error.boundary}: {error}"] += 1
                return
            journal.append(asdict(_Made(key, question.id, score, self._facts.scoring)))
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
        key = RagKey.of(self._agent, question, self._index, self._facts.generator, self._answer.max_tokens)
        return key.digest()

    async def _score(self, question: Question) -> float:
        trajectory = await self._agent.play(question, self._world, self._answer)
        return (await grade(question, trajectory.answer or "", self._world.judge)).gen_acc


async def _store(scores: str) -> tuple[Look, Callable[[], Awaitable[None]]]:
    """Returns a function that looks up a score, and one that closes its source. Raises ConfigProblem."""

    async def nothing(*_: str) -> None:
        return None

    if not scores:
        return nothing, nothing
    if "://" in scores:
        store = rag_store.RagStore(scores, ttl_s=1, timeout_s=10)
        try:
            await store.check()
        except CacheError as error:
            raise ConfigProblem("data.scores", str(error)) from None
        return store.score_of, store.close
    read = _read_scores(Path(scores))

    async def look(key: str, question_id: str) -> rag_store.Score | None:
        return read.get((key, question_id))

    return look, nothing


def _read_scores(path: Path) -> dict[tuple[str, str], rag_store.Score | None]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["key", "question_id", "score"]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigProblem("data.scores", f"{path}: {error}") from None
    return {(row["key"], row["question_id"]): stored.read(rag_store.Score, row["score"] or "") for row in table}


def _row(
    place: int, question: Question, facts: Facts, score: Score | None, gold: tuple[Passage, ...]
) -> dict[str, Any]:
    """Returns a row for verl's dataset. The rollout's part is one JSON text, so that no layer in between changes it."""
    example = Example(question, score.gen_acc if score else None, facts.generator, gold)
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
    """Writes rows as Parquet, atomically."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path) as draft:
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), draft)


def rows(path: Path) -> int:
    """Returns the number of rows of a file that `write` made."""
    from pyarrow import parquet

    return int(parquet.read_metadata(path).num_rows)
