"""One stack searches another's index: a retriever over gRPC asks the other gateway's /retrieve, with a key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common import client, server
from common.backends import GrpcRetriever
from common.keys import FileKeys, Scope, make
from search_agent.errors import Failure, RetrieverError
from search_agent.types import Mode, Rankings, Retrieval
from services.gateway.door import Rules
from services.retriever.search import BatchedRetriever
from services.retriever.service import FULL_NAME, RetrieverServicer, assemble
from services.retriever.settings import RetrieverSettings
from services.retriever.sources.config import connect
from tests.integration.served import gateway
from tests.unit.gateway.rest import Rest
from tests.unit.retriever.helpers import build_index
from tests.waiting import LIMIT_S

HOW = Retrieval(3)


class Counted:
    """A retriever that counts the searches that it is asked for."""

    def __init__(self, retriever: BatchedRetriever) -> None:
        self._retriever, self.calls = retriever, 0
        self.indexes, self.close, self.keeper = retriever.indexes, retriever.close, retriever.keeper
        self.changed = retriever.changed

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        self.calls += 1
        return await self._retriever.search(queries, how)


async def test_one_stack_searches_anothers_index_while_it_is_there(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    build_index(theirs, count=40, name="words", dense=False)
    build_index(ours, count=5, name="own", dense=False)
    store = FileKeys(tmp_path / "keys.json")
    key, secret = make("other stack", [Scope.ASK])
    await store.add(key)
    (tmp_path / "key").write_text(secret)
    direct = assemble(RetrieverSettings(indexes=theirs))
    queries = ["word7 word3", "word39", "nothing"]

    async with gateway(Rest(retriever=direct, rules=Rules(store))) as url:
        fields = {"kind": "retrieve", "url": f"{url}/retrieve", "key_file": str(tmp_path / "key")}
        connect(ours, "far", fields, force=False)
        settings = RetrieverSettings(indexes=ours, default_index="far", port=0)
        retriever = Counted(assemble(settings))
        served, grpc_port = await server.start("retriever", FULL_NAME, settings, RetrieverServicer(retriever).register)
        asked = GrpcRetriever(f"127.0.0.1:{grpc_port}", timeout_s=LIMIT_S)
        found = await asked.search(queries, HOW)
        assert found == await direct.search(queries, HOW)
        assert [len(passages) for passages in found] == [2, 1, 0]
        far = next(index for index in await asked.indexes() if index.name == "far")
        assert (far.kind, far.modes, far.version, found.served) == ("retrieve", (), "", "far@")
        with pytest.raises(RetrieverError) as caught:
            await asked.search(queries, Retrieval(3, mode=Mode.BM25))
        assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, "mode")

    calls = retriever.calls
    for _ in range(6):  # more than a backend may fail in a row before it is left alone
        with pytest.raises(RetrieverError, match="the server of index 'far' cannot be reached") as caught:
            await asked.search(queries, HOW)
        assert (caught.value.failure, caught.value.field) == (Failure.UNAVAILABLE, "index")
    assert retriever.calls - calls == 6
    assert [len(passages) for passages in await asked.search(["word3"], Retrieval(3, "own"))] == [1]
    async with client.connect(f"127.0.0.1:{grpc_port}") as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    await asked.close()
    await served.stop(None)
    await retriever.close()
    await direct.close()


async def test_one_retriever_searches_the_parts_that_others_hold(tmp_path: Path) -> None:
    front = tmp_path / "front"
    build_index(front, count=5, name="own", dense=False)
    parts, targets = [], []
    for number in (0, 1):
        folder = tmp_path / str(number)
        build_index(folder, count=10 + number, name="words", dense=False)
        settings = RetrieverSettings(indexes=folder, port=0)
        part = assemble(settings)
        parts.append((part, *await server.start("retriever", FULL_NAME, settings, RetrieverServicer(part).register)))
        targets.append(f"127.0.0.1:{parts[-1][2]}/words")
    connect(front, "all", {"kind": "shards", "shards": targets}, force=False)
    front_settings = RetrieverSettings(indexes=front, default_index="all", port=0)
    retriever = await asyncio.to_thread(assemble, front_settings)  # outside the loop, as the service does

    info = next(index for index in await retriever.indexes() if index.name == "all")
    assert (info.kind, info.modes, info.passages, info.is_default, info.fault) == ("shards", (Mode.BM25,), 21, True, "")
    found = await retriever.search(["word10", " ", "word3 word4"], HOW)
    assert [[passage.id for passage in passages] for passages in found] == [["p10"], [], ["p3", "p4"]]
    assert found.served == info.served

    part, service, port = parts[1]
    await service.stop(None)
    with pytest.raises(RetrieverError, match="shard 2 of index 'all'") as caught:
        await retriever.search(["word3"], HOW)
    assert (caught.value.failure, caught.value.field) == (Failure.UNAVAILABLE, "index")
    assert str(port) not in caught.value.message
    assert "shard 2" in next(index.fault for index in await retriever.indexes() if index.name == "all")
    assert await retriever.search(["word3"], Retrieval(1, "own"))
    await retriever.close()
    await parts[0][1].stop(None)
    for part, _, _ in parts:
        await part.close()
