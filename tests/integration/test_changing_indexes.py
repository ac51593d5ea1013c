"""An index over gRPC that changes while others search it, and a service that is killed in a build."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from common.addresses import free_port
from common.backends import GrpcRetriever
from common.indexes import Change, ChangeState, Edit, NewIndex, Removal
from search_agent.errors import RetrieverError
from search_agent.types import Mode, Passage, Retrieval
from tests.waiting import LIMIT_S, until_async, until_here

MANY = 1000
GRACE_S = 20  # for calls under way when a service stops


class Service:
    """A retriever process over a writable folder. Indexes have BM25 only, so that nothing waits for an encoder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        environment = {
            **os.environ, "RETRIEVER_INDEXES": str(folder), "RETRIEVER_WRITABLE": str(folder),
            "RETRIEVER_PORT": str(self.port), "RETRIEVER_METRICS_PORT": str(free_port()),
            "RETRIEVER_SHUTDOWN_GRACE_S": str(GRACE_S),
        }  # fmt: skip
        self.process = subprocess.Popen([sys.executable, "-m", "services.retriever"], env=environment)

    async def client(self) -> GrpcRetriever:
        client = GrpcRetriever(f"127.0.0.1:{self.port}", LIMIT_S, watches=True)

        async def answers() -> bool:
            with suppress(RetrieverError):
                await client.indexes()
                return True
            return False

        await until_async(answers)
        return client

    def stop(self, signum: int = signal.SIGTERM) -> None:
        self.process.send_signal(signum)
        self.process.wait(LIMIT_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "indexes"
    made.mkdir()
    return made


async def each(edits: Iterable[Edit]) -> AsyncIterator[Edit]:
    for edit in edits:
        yield edit


async def built(client: GrpcRetriever, change: Change) -> Change:
    async def found() -> Change:
        return next(each for each in await client.changes(change.index) if each.id == change.id)

    async def done() -> bool:
        return (await found()).state is ChangeState.DONE

    await until_async(done)
    return await found()


def passages(word: str) -> list[Passage]:
    return [Passage(f"p{n}", f"Title {n}", f"common {word}{n}", metadata={"n": n}) for n in range(MANY)]


async def test_a_thousand_passages_come_change_and_go_while_four_callers_search(folder: Path) -> None:
    service = Service(folder)
    try:
        client = await service.client()
        await client.create_index(NewIndex("mine", encoder=""))
        answered: list[str] = []
        stop = asyncio.Event()

        async def ask() -> None:
            while not stop.is_set():
                answered.append((await client.search(["common first7"], Retrieval(3, "mine", Mode.BM25))).served)
                await asyncio.sleep(0.005)

        async def first(word: str) -> list[str]:
            [found] = await client.search([word], Retrieval(1, "mine", Mode.BM25))
            return [passage.id for passage in found]

        async def answers(change: Change) -> None:
            await until_here(lambda: f"mine@{change.version}" in answered)

        callers = [asyncio.create_task(ask()) for _ in range(4)]
        added = await built(client, await client.change_passages("mine", each(passages("first"))))
        assert (added.upserts, await first("first7")) == (MANY, ["p7"])
        await answers(added)
        changed = await built(client, await client.change_passages("mine", each(passages("second"))))
        assert (await first("first7"), await first("second7")) == ([], ["p7"])
        await answers(changed)
        gone = await built(client, await client.change_passages("mine", each(Removal(f"p{n}") for n in range(MANY))))
        assert await first("second7") == []
        stop.set()
        await asyncio.gather(*callers)  # raises if one search failed
        assert {name.partition("@")[0] for name in answered} == {"mine"}
        back = await client.roll_back("mine", added.version)
        assert (back.version, await first("first7")) == (added.version, ["p7"])
        assert gone.version != added.version
        print(f"{len(answered)} searches, none failed; versions: {len({*answered})}")
        await client.close()
    finally:
        service.stop()


async def test_who_changes_an_index_sees_that_at_once_and_a_watched_service_stops_at_once(folder: Path) -> None:
    service = Service(folder)
    try:
        client = await service.client()
        for _ in range(20):
            await client.create_index(NewIndex("mine", encoder=""))
            assert [index.name for index in await client.indexes()] == ["mine"]
            await client.delete_index("mine")
            assert not await client.indexes()
        began = time.monotonic()
        await asyncio.to_thread(service.stop)
        assert time.monotonic() - began < GRACE_S
        await client.close()
    finally:
        service.stop()


async def test_a_change_outlives_the_process_that_is_killed_while_it_builds(folder: Path) -> None:
    service = Service(folder)
    try:
        client = await service.client()
        await client.create_index(NewIndex("mine", encoder=""))
        change = await client.change_passages("mine", each(passages("first") + passages("second")))
        await until_here((folder / "mine.building").exists)
        await client.close()
        service.stop(signal.SIGKILL)
        service = Service(folder)
        client = await service.client()
        assert (await built(client, change)).upserts == MANY
        [found] = await client.search(["second7"], Retrieval(1, "mine", Mode.BM25))
        assert [passage.id for passage in found] == ["p7"]
        await client.close()
    finally:
        service.stop()
