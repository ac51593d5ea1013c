"""The naive-RAG cache on a real Redis: hits, misses, and a Redis that goes and comes back."""

from collections.abc import AsyncIterator, Sequence

import pytest

from common.rag_store import RagStore
from search_agent.agents import AGENTS
from search_agent.types import IndexInfo, Mode, Question, Sampling, Trajectory
from services.gateway.cache import RagCache
from services.gateway.player import Backends, Player
from tests.fakes import Generator, Retriever, Searcher
from tests.integration.conftest import RedisServer
from tests.waiting import LIMIT_S


class Gateway:
    """Runs naive RAG over fakes through a real cache, and counts the generator's calls."""

    def __init__(self, cache: RagCache) -> None:
        self.retriever, self.generator = Retriever(), Generator("an answer")
        self.cache = cache

    async def ask(
        self, question: str = "q", max_tokens: int = 8, max_documents: int | None = None, **params: object
    ) -> tuple[Trajectory, bool]:
        backends = Backends(self.retriever, Searcher([]), self.generator, self.cache)
        player = Player(backends, Sampling(max_tokens=max_tokens))
        agent = AGENTS["naive_rag"].with_params(params)
        played = await player.play(agent, Question("q", question), max_documents, with_answer=True)
        return played.trajectory, played.cached

    @property
    def generations(self) -> int:
        return len(self.generator.prompts)


@pytest.fixture
async def gateway(redis_server: RedisServer) -> AsyncIterator[Gateway]:
    store = RagStore(redis_server.url, ttl_s=60, timeout_s=LIMIT_S)
    yield Gateway(RagCache(store))
    await store.close()


async def test_the_second_time_nothing_is_retrieved_or_generated(gateway: Gateway) -> None:
    first, was_cached = await gateway.ask()
    assert not was_cached
    second, was_cached = await gateway.ask()
    assert was_cached
    assert gateway.generations == len(gateway.retriever.queries) == 1
    assert (second.answer, second.documents, second.turns, second.usage, second.stop_reason, second.models) == (
        first.answer, first.documents, first.turns, first.usage, first.stop_reason, first.models,
    )  # fmt: skip


async def test_nothing_is_kept_of_an_index_without_a_version(gateway: Gateway) -> None:
    gateway.retriever.version = ""
    assert [(await gateway.ask())[1] for _ in range(2)] == [False, False]
    assert await gateway.cache.store.contents() == {}


@pytest.mark.parametrize("value", ["garbage", "null", "{}", '{"method": "naive_rag"}', b"\xff\xfe"])
async def test_a_damaged_or_older_result_is_answered_anew_and_replaced(gateway: Gateway, value: str | bytes) -> None:
    first, _ = await gateway.ask()
    (key,) = await gateway.cache.store._redis.keys("rag:*")
    await gateway.cache.store._redis.set(key, value)
    again, was_cached = await gateway.ask()
    assert (again.answer, was_cached, gateway.generations) == (first.answer, False, 2)
    assert (await gateway.ask())[1]


@pytest.mark.parametrize(
    "change",
    [
        "index version",
        "k",
        "mode",
        "generator",
        "max tokens",
        "question",
        "index by name",
        "budget",
        "a budget that cuts nothing",
    ],
)
async def test_a_changed_part_misses(gateway: Gateway, change: str) -> None:
    await gateway.ask()
    if change == "index version":
        gateway.retriever.version = "v2"
    if change == "generator":
        gateway.generator.model = "echo@2"
    options: dict[str, object] = {
        "k": {"top_k": 2},
        "mode": {"mode": Mode.BM25},
        "question": {"question": "q?"},
        "max tokens": {"max_tokens": 9},
        "index by name": {"index": "demo"},
        "budget": {"max_documents": 2},
        "a budget that cuts nothing": {"max_documents": 3},
    }.get(change, {})
    _, was_cached = await gateway.ask(**options)  # type: ignore[arg-type]
    # naming the default index changes nothing
    assert was_cached == (change in ("index by name", "a budget that cuts nothing"))


async def test_an_answer_of_another_model_than_the_key_names_is_not_stored(gateway: Gateway) -> None:
    gateway.generator.model = "promoted@2"  # the look-up saw the new model, while the answer still came from echo@1
    await gateway.ask()
    _, was_cached = await gateway.ask()
    assert not was_cached


async def test_an_answer_of_another_version_than_the_key_names_is_not_stored(gateway: Gateway) -> None:
    seen = gateway.retriever.indexes

    async def changing() -> Sequence[IndexInfo]:
        told = await seen()
        gateway.retriever.version = "v2"  # the version takes over between look-up and search
        return told

    gateway.retriever.indexes = changing  # type: ignore[method-assign]
    first, _ = await gateway.ask()
    assert first.indexes == ("demo@v2",)
    assert not (await gateway.ask())[1]
    assert (await gateway.ask())[1]


async def test_redis_goes_and_comes_back(gateway: Gateway, redis_server: RedisServer) -> None:
    await gateway.ask()
    redis_server.stop()
    answered, was_cached = await gateway.ask()
    assert answered.answer == "an answer"
    assert not was_cached
    redis_server.start()
    await gateway.ask()
    assert (await gateway.ask())[1]
