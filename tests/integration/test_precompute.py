"""Precomputes naive RAG into a real Redis through a gateway over fakes; counts, clears, and moves Parquet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow
import pytest
from pyarrow import parquet

from common.judge import JudgeEndpoint
from common.rag_store import Contents, RagStore
from evaluation import scored_file
from evaluation.errors import EvaluateProblem
from evaluation.gateway import Gateway
from evaluation.precompute import Outcome, Scorer, precompute
from evaluation.rows import Grader
from search_agent.errors import CacheError, Failure, GeneratorError
from search_agent.grading.answers import Scoring
from search_agent.types import Question, Sampling
from search_agent_client import AsyncClient
from services.gateway.app import create_app
from services.gateway.asker import Asker
from services.gateway.cache import RagCache
from services.gateway.capacity import Capacity
from services.gateway.methods import Methods
from services.gateway.player import Backends, Player
from tests.fakes import Generator, Retriever, Searcher
from tests.integration.conftest import RedisServer
from tests.waiting import LIMIT_S

# the generator always says "an answer"
QUESTIONS = [Question(f"q{n}", f"question {n}", ("answer",) if n % 3 else ("other",)) for n in range(12)]
PLAIN = Grader(Scoring.UNICODE, None)


class Stack:
    """The gateway's application over fakes and a real Redis, and a store on the same Redis."""

    def __init__(self, url: str) -> None:
        self.retriever, self.generator = Retriever(), Generator("an answer")
        self.gateway_store = RagStore(url, ttl_s=60, timeout_s=LIMIT_S)
        self.store = RagStore(url, ttl_s=1, timeout_s=LIMIT_S)
        backends = Backends(self.retriever, Searcher([]), self.generator, RagCache(self.gateway_store))
        self.app = create_app(backends, Asker(Player(backends, Sampling(max_tokens=8)), Methods(backends), Capacity(8)))
        transport = httpx.ASGITransport(self.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gateway")
        self.client = AsyncClient("http://gateway", transport=transport)

    async def fill(self, questions: list[Question] = QUESTIONS, grader: Grader = PLAIN, **fields: Any) -> Outcome:
        steps: list[bool] = []
        gateway = Gateway(self.client, 0.5)
        scorer = Scorer(gateway, grader, self.store, fields)
        outcome = await precompute(questions, gateway, self.store, scorer, 3, steps.append)
        assert len(steps) == len(questions)
        return outcome

    @property
    def generations(self) -> int:
        return len(self.generator.prompts)


@pytest.fixture
async def stack(redis_server: RedisServer) -> AsyncIterator[Stack]:
    made = Stack(redis_server.url)
    async with made.http:
        yield made
    await made.store.close()
    await made.gateway_store.close()


async def cached_key(stack: Stack, question: str) -> str:
    body = {"question": question, "method": "naive_rag"}
    response = (await stack.http.post("/v1/answer", json=body)).json()
    assert response["cached"]
    return str(response["cache_key"])


async def test_every_question_is_scored_once_and_the_failed_are_named(stack: Stack) -> None:
    outcome = await stack.fill()
    assert (outcome.right, outcome.known, stack.generations) == (8, 0, 12)
    assert [question.id for question in outcome.wrong] == ["q0", "q3", "q6", "q9"]
    again = await stack.fill()
    assert (again.right, again.known, stack.generations) == (8, 12, 12)
    assert again.wrong == outcome.wrong


async def test_an_index_whose_answers_change_is_refused_before_anything_is_asked(stack: Stack) -> None:
    stack.retriever.version = ""
    with pytest.raises(EvaluateProblem, match="index 'demo' has no version"):
        await stack.fill()
    assert stack.generations == 0


async def test_a_run_that_failed_midway_goes_on(stack: Stack) -> None:
    await stack.fill(QUESTIONS[:5])
    stack.generator.error = GeneratorError(Failure.UNAVAILABLE, "down")
    broken = await stack.fill()
    assert broken.failures == {"generator: unavailable": 12}  # its version is unknown, so nothing is trusted
    assert not broken.wrong
    stack.generator.error = None
    healed = await stack.fill()
    assert (healed.known, healed.right, stack.generations) == (5, 8, 12)


async def test_training_finds_result_and_score_by_key(stack: Stack) -> None:
    await stack.fill()
    key = await cached_key(stack, "question 0")
    result, score = await stack.store.get(key), await stack.store.score_of(key, "q0")
    assert result is not None
    assert result.answer == "an answer"
    assert score is not None
    assert (score.gen_acc, score.golds, score.answer, score.scoring) == (0, ("other",), "an answer", "unicode-1")
    assert await stack.store.score_of(key, "another") is None


async def test_what_is_scored_outlives_the_cache(stack: Stack) -> None:
    await stack.fill(QUESTIONS[:1])
    key = await cached_key(stack, "question 0")
    assert await stack.store._redis.ttl(key) == -1
    result = await stack.store.get(key)
    assert result is not None
    await stack.gateway_store.put(key, result)  # as another gateway does at the same time
    assert await stack.store._redis.ttl(key) == -1
    await stack.http.post("/v1/answer", json={"question": "unscored", "method": "naive_rag"})
    assert 0 < await stack.store._redis.ttl(await cached_key(stack, "unscored")) <= 60


async def test_one_wording_with_two_golds_has_two_scores(stack: Stack) -> None:
    twins = [Question("a", "same", ("answer",)), Question("b", "same", ("other",))]
    for _ in range(2):
        outcome = await stack.fill(twins)
        assert (outcome.right, [question.id for question in outcome.wrong]) == (1, ["b"])
    assert outcome.known == 2


async def test_changed_golds_are_scored_anew(stack: Stack) -> None:
    await stack.fill(QUESTIONS[:1])
    outcome = await stack.fill([Question("q0", "question 0", ("answer",))])
    assert (outcome.right, outcome.known, stack.generations) == (1, 0, 1)


async def test_other_rules_score_anew(stack: Stack) -> None:
    await stack.fill(QUESTIONS[:1])
    assert (await stack.fill(QUESTIONS[:1], Grader(Scoring.SQUAD, None))).known == 0
    assert (await stack.fill(QUESTIONS[:1], Grader(Scoring.SQUAD, None))).known == 1
    assert stack.generations == 1


@pytest.mark.parametrize(
    "value", ["garbage", "null", "{}", b"\xff\xfe", '{"gen_acc": 1, "golds": ["other"], "judge": null}']
)
async def test_a_damaged_or_older_score_is_made_again(stack: Stack, tmp_path: Path, value: str | bytes) -> None:
    await stack.fill(QUESTIONS[:2])
    key = await cached_key(stack, "question 0")
    await stack.store._redis.hset(f"{key}:scored", "q0", value)  # type: ignore[arg-type]
    assert await scored_file.save(stack.store, tmp_path / "scored.parquet") == 1
    outcome = await stack.fill(QUESTIONS[:2])
    assert (outcome.known, [question.id for question in outcome.wrong]) == (1, ["q0"])


async def test_a_new_index_version_is_precomputed_anew(stack: Stack) -> None:
    await stack.fill()
    stack.retriever.version = "v2"
    outcome = await stack.fill()
    assert (outcome.known, stack.generations) == (0, 24)
    found = (await stack.http.get("/v1/cache")).json()
    assert found["indexes"] == [
        {"index": "demo", "version": "v1", "results": 12, "scored": 12, "current": False},
        {"index": "demo", "version": "v2", "results": 12, "scored": 12, "current": True},
    ]


async def test_clearing_one_version_leaves_the_others(stack: Stack) -> None:
    await stack.fill()
    stack.retriever.version = "v2"
    await stack.fill(QUESTIONS[:2])
    await stack.store._redis.mset({"rag:demo2:v1:x": "{}", "rag:demo:v10:x": "{}", "rag:odd": "{}"})
    await stack.store._redis.set("elsewhere", "mine")
    response = await stack.http.delete("/v1/cache", params={"index": "demo", "version": "v1"})
    assert response.json() == {"removed": 12}
    assert await stack.store.contents() == {
        ("demo", "v2"): Contents(2, 2), ("demo", "v10"): Contents(1, 0), ("demo2", "v1"): Contents(1, 0),
    }  # fmt: skip
    assert (await stack.http.delete("/v1/cache", params={"index": "demo"})).json() == {"removed": 3}
    assert (await stack.http.delete("/v1/cache", params={"index": "d*"})).json() == {"removed": 0}
    assert await stack.store._redis.get("elsewhere") == "mine"
    assert (await stack.http.delete("/v1/cache")).status_code == 422


async def test_many_results_are_counted_and_cleared_in_batches(stack: Stack) -> None:
    await stack.store._redis.mset({f"rag:big:v1:{n}": "{}" for n in range(3000)})
    assert await stack.store.contents() == {("big", "v1"): Contents(3000, 0)}
    assert await stack.store.clear("big", "v1") == 3000
    assert await stack.store.contents() == {}


async def test_there_and_back_through_parquet(stack: Stack, tmp_path: Path) -> None:
    await stack.fill()
    path = tmp_path / "scored.parquet"
    assert await scored_file.save(stack.store, path) == 12
    await stack.store.clear("demo")
    assert await scored_file.load(stack.store, path) == 12
    outcome = await stack.fill()
    assert (outcome.known, outcome.right, stack.generations) == (12, 8, 12)
    assert await scored_file.save(stack.store, tmp_path / "none.parquet", "other") == 0
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EvaluateProblem, match=r"scored\.parquet"):
        await scored_file.load(stack.store, path)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"key": ["rag:a"], "result": ["{}"]}, "no text column question_id, score"),
        ({"key": [1], "result": ["{}"], "question_id": ["q"], "score": ["{}"]}, "no text column key"),
        ({"key": ["rag:a"], "result": [""], "question_id": ["q"], "score": ["{}"]}, "row 1 is not a scored result"),
        ({"key": ["elsewhere"], "result": ["{}"], "question_id": ["q"], "score": ["{}"]}, "row 1 is not a scored"),
    ],
)
async def test_a_parquet_file_of_something_else_is_refused(
    stack: Stack, tmp_path: Path, columns: dict[str, list[Any]], said: str
) -> None:
    path = tmp_path / "other.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(EvaluateProblem, match=said):
        await scored_file.load(stack.store, path)
    assert not await stack.store._redis.keys("*")


async def test_a_redis_that_is_not_the_gateways_is_said(stack: Stack, tmp_path: Path) -> None:
    elsewhere = RedisServer(tmp_path)
    try:
        stack.store = RagStore(elsewhere.url, ttl_s=1, timeout_s=LIMIT_S)
        with pytest.raises(EvaluateProblem, match="another Redis"):
            await stack.fill()
    finally:
        elsewhere.stop()
    with pytest.raises(CacheError):
        await stack.fill()


async def test_the_judges_verdict_is_part_of_the_score(stack: Stack) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"choices": [{"message": {"content": "Yes"}}]})

    async with httpx.AsyncClient(transport=httpx.MockTransport(reply)) as http:
        judged = Grader(Scoring.UNICODE, JudgeEndpoint(http, "http://judge/v1", "judge-1", "secret"))
        assert (await stack.fill()).right == 8
        outcome = await stack.fill(grader=judged)
        assert (outcome.right, outcome.known) == (12, 0)  # scores without the judge are not its
        assert (await stack.fill(grader=judged)).known == 12


async def test_multiple_choice_has_keys_of_its_own(stack: Stack) -> None:
    options = {"A": "an answer", "B": "none"}
    question = Question("m", "question 1", ("A: an answer",), options=options, choice="A")
    assert (await stack.fill([question])).right == 1
    assert "A: an answer\nB: none" in stack.generator.prompts[0]
    assert stack.retriever.queries == ["question 1"]
    await stack.fill(QUESTIONS[1:2])
    assert stack.generations == 2
    assert "B: none" not in stack.generator.prompts[1]
