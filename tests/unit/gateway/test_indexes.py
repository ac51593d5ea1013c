"""Indexes over REST: made, changed while they answer, rolled back and removed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.indexes import NewIndex
from common.keys import FileKeys, Scope, make
from search_agent.errors import Failure, RetrieverError
from services.gateway.door import Rules
from tests.unit.gateway.rest import Rest

LINES = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}
PASSAGES = [
    {"id": "a", "title": "A", "text": "one", "metadata": {"year": 1955, "lang": "en"}},
    {"id": 2, "text": "two"},
    {"_id": "c", "title": "C", "contents": "C\nthree"},
]


@pytest.fixture
async def rest() -> AsyncIterator[Rest]:
    gateway = Rest()
    async with gateway.http:
        assert (await gateway.post("/v1/indexes", name="mine")).status_code == 201
        yield gateway


def lines(records: Iterable[object]) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


async def push(rest: Rest, body: Any, media: dict[str, str] = LINES, **query: Any) -> httpx.Response:
    return await rest.http.post("/v1/indexes/mine/passages", content=body, headers=media, params=query)


async def held(rest: Rest) -> list[str]:
    response = await rest.post("/v1/retrieve", queries=["one"], index="mine")
    return sorted(each["id"] for each in response.json()["results"][0])


async def test_an_index_is_made_and_removed(rest: Rest) -> None:
    response = await rest.post("/v1/indexes", name="other", bm25="bm25s", encoder="", source="mine", licence="CC0")
    assert (response.status_code, response.headers["location"]) == (201, "/v1/indexes/other")
    made = response.json()
    assert (made["name"], made["passages"], made["writable"], made["changes"]) == ("other", 0, True, [])
    assert (await rest.http.get("/v1/indexes/other")).json() == made
    assert [each["name"] for each in (await rest.http.get("/v1/indexes")).json()] == ["demo", "mine", "other"]
    again = await rest.post("/v1/indexes", name="other")
    assert (again.status_code, again.json()["errors"][0]["field"]) == (422, "name")
    assert (await rest.http.delete("/v1/indexes/other")).json() == {"name": "other"}
    assert (await rest.http.get("/v1/indexes/other")).status_code == 404
    assert (await rest.http.delete("/v1/indexes/demo")).status_code == 422  # it is read-only


async def test_an_index_whose_changes_cannot_be_read_does_not_hide_the_others(rest: Rest) -> None:
    await rest.post("/v1/indexes", name="other")
    shelf = rest.retriever.shelves["mine"]
    shelf.error = RetrieverError(Failure.UNAVAILABLE, "the disk: Input/output error", "index")
    listed = (await rest.http.get("/v1/indexes")).json()
    assert {each["name"]: each["fault"] for each in listed} == {"demo": "", "mine": shelf.error.message, "other": ""}
    shelf.error = RetrieverError(Failure.UNAVAILABLE, "it cannot be reached")
    assert (await rest.http.get("/v1/indexes")).status_code == 503


@pytest.mark.parametrize(
    ("media", "body"),
    [
        (LINES, lines(PASSAGES)),
        (JSON, json.dumps(PASSAGES).encode()),
        (JSON, json.dumps({"passages": PASSAGES}, indent=1).encode()),
    ],
)
async def test_passages_of_every_shape_are_added(rest: Rest, media: dict[str, str], body: bytes) -> None:
    response = await push(rest, body, media)
    assert response.status_code == 200
    assert response.headers["location"] == "/v1/indexes/mine/changes/1"
    change = response.json()
    assert {name: change[name] for name in ("index", "id", "state", "upserts", "removals", "version")} == {
        "index": "mine", "id": 1, "state": "done", "upserts": 3, "removals": 0, "version": "v1",
    }  # fmt: skip
    assert (await rest.http.get(response.headers["location"])).json() == change
    found = (await rest.post("/v1/retrieve", queries=["three"], index="mine", top_k=1)).json()
    assert found["index"] == "mine@v1"
    assert [(each["id"], each["title"], each["text"]) for each in found["results"][0]] == [("c", "C", "three")]
    assert await held(rest) == ["2", "a", "c"]


async def test_passages_are_replaced_and_removed_by_id(rest: Rest) -> None:
    await push(rest, lines(PASSAGES))
    edits = [{"id": "a", "text": "one more"}, {"id": "2", "deleted": True}, {"id": "gone", "deleted": True}]
    change = (await push(rest, lines(edits))).json()
    assert (change["upserts"], change["removals"]) == (1, 2)
    assert await held(rest) == ["a", "c"]


async def test_a_change_is_waited_for(rest: Rest) -> None:
    rest.retriever.busy = True
    accepted = await push(rest, lines(PASSAGES), wait=0.01)
    assert (accepted.status_code, accepted.json()["state"]) == (202, "waiting")
    assert await held(rest) == []
    where = accepted.headers["location"]
    asked = asyncio.create_task(rest.http.get(where, params={"wait": 60}))
    await asyncio.sleep(0.01)
    rest.retriever.build("mine")
    assert (await asked).json()["state"] == "done"
    assert (await rest.http.get(where.replace("/1", "/9"))).status_code == 404
    assert (await rest.http.get(where, params={"wait": 601})).status_code == 422


@pytest.mark.parametrize(
    ("body", "line", "field"),
    [
        (b'{"id": "a", "text": "x"}\n\n{"id": "b", "text": ""}\n', 3, "text"),
        (b'{"id": "a", "text": "x"}\n{"title": "b", "text": "y"}\n', 2, "id"),
        (b'{"id": "a", "text": "x"}\nnot JSON', 2, "body"),
        (b'{"id": "a", "text": "x"}\n{"id": "b", "deleted": "yes"}', 2, "deleted"),
        (b'{"id": "a", "text": "x"}\n{"id": "b", "text": 7.5}', 2, "text"),
        (b'[{"id": "a", "text": "x"},\n{"id": "b"}]', 2, "text"),
        (b'[{"id": "a", "text": "x"},\n{"id": "b", "text": "y"}', 2, "body"),
        (b'{"id": "a", "text": "x"}\n{"id": "b", "text": "' + b"y" * 1_000_000, 2, "body"),
    ],
)
async def test_a_bad_line_is_named_and_nothing_is_changed(rest: Rest, body: bytes, line: int, field: str) -> None:
    response = await push(rest, body)
    assert response.status_code == 400
    problem = response.json()
    assert problem["line"] == line
    assert problem["errors"][0]["field"] == field
    assert f"line {line}: " in problem["detail"]
    assert await held(rest) == []
    assert (await rest.http.get("/v1/indexes/mine")).json()["changes"] == []


@pytest.mark.parametrize("body", [b"", b"\n\n", b"[]"])
async def test_a_body_without_passages_is_refused(rest: Rest, body: bytes) -> None:
    response = await push(rest, body)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "body")


async def test_a_body_of_passages_has_a_limit_of_its_own_and_may_be_slow() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for number in range(4):
            yield json.dumps({"id": number, "text": "x"}).encode() + b"\n"
            await asyncio.sleep(0.1)

    rest = Rest(rules=Rules(body_bytes=10, records_bytes=200, body_timeout_s=0.3))
    await rest.retriever.create_index(NewIndex("mine"))
    assert (await push(rest, slowly())).status_code == 200
    assert (await push(rest, lines([{"id": 1, "text": "x" * 300}]))).status_code == 413
    assert (await push(rest, lines(PASSAGES), {"content-type": "text/plain"})).status_code == 415
    assert (await rest.http.post("/v1/indexes/mine/rollback", content=b"{}", headers=LINES)).status_code == 415


async def test_an_older_version_is_served_again(rest: Rest) -> None:
    await push(rest, lines(PASSAGES))
    await push(rest, lines([{"id": "a", "deleted": True}]))
    shown = (await rest.http.get("/v1/indexes/mine")).json()
    assert [(each["version"], each["passages"]) for each in shown["versions"]] == [("v2", 2), ("v1", 3), ("v0", 0)]
    back = await rest.post("/v1/indexes/mine/rollback", version="v1")
    assert (back.status_code, back.json()["version"], back.json()["passages"]) == (200, "v1", 3)
    assert await held(rest) == ["2", "a", "c"]
    assert (await rest.post("/v1/indexes/mine/rollback", version="v9")).status_code == 404


async def test_a_key_for_some_indexes_changes_no_other(tmp_path: Path) -> None:
    store = FileKeys(tmp_path / "keys.json")
    key, secret = make("writer", [Scope.INDEX], indexes=["mine"])
    await store.add(key)
    rest = Rest(rules=Rules(store))
    rest.http.headers["x-api-key"] = secret
    assert (await rest.post("/v1/indexes", name="mine")).status_code == 201
    assert (await push(rest, lines(PASSAGES))).status_code == 200
    assert [each["name"] for each in (await rest.http.get("/v1/indexes")).json()] == ["mine"]
    for verb, path, body in (
        ("POST", "/v1/indexes", {"name": "other"}),
        ("DELETE", "/v1/indexes/demo", None),
        ("POST", "/v1/indexes/demo/passages", PASSAGES),
        ("GET", "/v1/indexes/demo/changes/1", None),
        ("POST", "/v1/indexes/demo/rollback", {"version": "v1"}),
    ):
        response = await rest.http.request(verb, path, **({"json": body} if body else {}))
        missing = "demo" if "demo" in path else "other"
        assert (response.status_code, response.json()["missing_index"]) == (403, missing)
    assert (await rest.http.get("/v1/indexes/demo")).status_code == 404
