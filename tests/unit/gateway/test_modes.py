"""The mode that is asked for, and the modes that an index has."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from search_agent.agents import AGENTS
from search_agent.types import Mode, ModelCard, Sampling
from services.gateway.player import Player
from services.retriever.service import assemble
from services.retriever.settings import RetrieverSettings
from tests.unit.gateway.rest import Rest
from tests.unit.retriever.helpers import FakeEncoder, build_index


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Rest]:
    """Serves "small" with vectors, the default index, and "words" without."""
    build_index(tmp_path)
    build_index(tmp_path, name="words", dense=False)
    settings = RetrieverSettings(indexes=tmp_path, default_index="small", port=0, metrics_port=0)
    retriever = assemble(settings, lambda _: FakeEncoder())
    gateway = Rest(retriever=retriever)
    async with gateway.http:
        yield gateway
    await retriever.close()


@pytest.mark.parametrize("index", ["", "small", "words"])
@pytest.mark.parametrize("method", ["s3", "naive_rag"])
async def test_without_a_mode_an_index_is_asked_as_it_can_be(rest: Rest, index: str, method: str) -> None:
    response = await rest.post("/v1/search", question="word7", method=method, parameters={"index": index})
    assert response.status_code == 200, response.text


async def test_plain_retrieval_without_a_mode(rest: Rest) -> None:
    found = (await rest.post("/v1/retrieve", queries=["word7"], index="words", top_k=1)).json()
    assert [passage["id"] for passage in found["results"][0]] == ["p7"]


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
async def test_a_mode_that_the_index_has_not_is_named_with_those_it_has(rest: Rest, mode: str) -> None:
    asked = {"/v1/retrieve": {"queries": ["word7"]}, "/v1/search": {"question": "word7", "method": "naive_rag"}}
    for path, body in asked.items():
        response = await rest.post(path, **body, index="words", mode=mode)
        assert response.status_code == 422
        problem = response.json()
        assert problem["errors"][0]["field"] == "mode"
        assert "it has bm25" in problem["detail"]


@pytest.mark.parametrize(("index", "mode"), [("", Mode.HYBRID), ("words", Mode.AUTO)])
async def test_a_mode_that_was_taught_gives_way_to_the_index(rest: Rest, index: str, mode: Mode) -> None:
    rest.searcher.card = ModelCard("s3", {"mode": "hybrid", "rerank": 20})
    response = await rest.post("/v1/search", question="word7", parameters={"index": index})
    assert response.status_code == 200, response.text
    player, agent = Player(rest.backends, Sampling(max_tokens=8)), AGENTS["s3"].as_taught(rest.searcher.card)
    here = (await player.fitted(agent.with_params({"index": index}), ())).params
    assert (here.mode, here.rerank) == (mode, 0)
    assert await player.fitted(agent, ("mode", "rerank")) == agent


async def test_an_index_tells_its_modes(rest: Rest) -> None:
    indexes = {index["name"]: index for index in (await rest.http.get("/v1/indexes")).json()}
    assert indexes["words"]["modes"] == ["bm25"]
    assert indexes["small"]["modes"] == ["dense", "bm25", "hybrid"]
    assert [indexes[name]["default"] for name in ("small", "words")] == [True, False]
