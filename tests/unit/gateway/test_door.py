"""The door of the gateway: keys, limits, sizes, hosts and origins, before any body is read."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from common import context, logs
from common.keys import FileKeys, KeyStore, Limits, Scope, id_of, make
from common.rag_store import Contents
from search_agent.errors import Failure, GeneratorError, KeysError
from search_agent.types import Completion, IndexInfo, Message, Mode, Sampling
from services.gateway import caller
from services.gateway.cache import RagCache
from services.gateway.counters import MemoryCounters
from services.gateway.door import Rules
from services.gateway.limits import Meter
from services.gateway.streams import with_heartbeats
from tests.fakes import Generator, Retriever
from tests.unit.gateway.rest import Rest


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> FileKeys:
    return FileKeys(tmp_path / "keys.json")


async def key(store: KeyStore, *scopes: Scope, **more: Any) -> dict[str, str]:
    """Makes a key and returns the header that brings it."""
    made, secret = make("test", scopes or [Scope.ASK], **more)
    await store.add(made)
    return {"authorization": f"Bearer {secret}"}


def problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    assert body["request_id"] == response.headers["x-request-id"]
    return body


async def test_a_key_opens_and_anything_else_does_not(store: FileKeys) -> None:
    rest = Rest(rules=Rules(store))
    bearer = await key(store)
    secret = bearer["authorization"].removeprefix("Bearer ")
    for good in (bearer, {"x-api-key": secret}, {"authorization": f"bearer  {secret} "}):
        assert (await rest.http.get("/v1/methods", headers=good)).status_code == 200
    expired = await key(store, lifetime=timedelta(seconds=-1))
    for bad in ({}, {"authorization": "Bearer"}, {"x-api-key": secret[:-1]}, {"authorization": secret}, expired,
                {"authorization": "Bearer sa_x_y"}, {"authorization": "Basic YTpi"}):  # fmt: skip
        response = await rest.http.get("/v1/methods", headers=bad)
        assert response.status_code == 401, bad
        assert response.headers["www-authenticate"] == "Bearer"
        problem(response)
    assert await store.remove(id_of(secret))
    assert (await rest.http.get("/v1/methods", headers=bearer)).status_code == 401


async def test_without_keys_nobody_is_asked_for_one() -> None:
    rest = Rest()
    assert (await rest.http.get("/v1/runs", headers={"authorization": "Bearer whatever"})).status_code == 404


async def test_a_key_without_the_scope_is_told_which(store: FileKeys) -> None:
    rest = Rest(rules=Rules(store))
    response = await rest.http.post("/v1/runs", json={}, headers=await key(store, Scope.ASK, Scope.INDEX))
    assert response.status_code == 403
    assert problem(response)["missing_scope"] == ["admin", "train"]


async def test_a_store_that_fails_lets_nobody_in() -> None:
    class Gone(FileKeys):
        async def get(self, id: str) -> None:
            raise KeysError(Failure.UNAVAILABLE, "Redis does not answer")

    rest = Rest(rules=Rules(Gone(Path("x"))))
    response = await rest.http.get("/v1/methods", headers={"x-api-key": "sa_id_secret"})
    assert response.status_code == 503
    assert problem(response)["backend"] == "keys"
    assert response.headers["retry-after"]
    assert (await rest.http.get("/healthz")).status_code == 200
    ready = await rest.http.get("/readyz")
    assert (ready.status_code, ready.json()["backends"]["keys"]) == (503, "unavailable")


class Two(Retriever):
    """Serves a second index beside the default one."""

    async def indexes(self) -> Sequence[IndexInfo]:
        other = IndexInfo(name="mine", version="v1", passages=3, dim=4, kind="flat", encoder="e", modes=(Mode.BM25,))
        return [*await super().indexes(), other]


async def test_a_key_for_certain_indexes_uses_no_other(store: FileKeys) -> None:
    retriever = Two()
    rest = Rest(rules=Rules(store), retriever=retriever)
    every, mine, none = (
        await key(store),
        await key(store, Scope.ASK, Scope.ADMIN, indexes=["mine"]),
        await key(store, indexes=["gone"]),
    )

    async def post(path: str, headers: dict[str, str], **body: Any) -> httpx.Response:
        return await rest.http.post(path, json=body, headers=headers)

    for path, body in (
        ("/v1/retrieve", {"queries": ["a"], "index": "demo"}),
        ("/v1/answer", {"question": "a", "method": "naive_rag", "index": "demo"}),
        ("/v1/search", {"question": "a", "method": "s3", "parameters": {"index": "demo"}}),
    ):
        assert (await post(path, every, **body)).status_code == 200
        response = await post(path, mine, **body)
        assert response.status_code == 403, path
        assert problem(response)["missing_index"] == "demo"
    retriever.asked.clear()
    assert (await post("/v1/retrieve", mine, queries=["a"])).status_code == 200
    assert (await post("/retrieve", mine, queries=["a"])).status_code == 200
    assert (await post("/v1/answer", mine, question="a", method="naive_rag")).status_code == 200
    assert {how.index for how in retriever.asked} == {"mine"}
    listed = (await rest.http.get("/v1/indexes", headers=mine)).json()
    assert [(index["name"], index["default"]) for index in listed] == [("mine", True)]
    assert len((await rest.http.get("/v1/indexes", headers=every)).json()) == 2
    assert (await post("/v1/retrieve", none, queries=["a"])).status_code == 403
    assert (await rest.http.delete("/v1/cache", params={"index": "demo"}, headers=mine)).status_code == 403
    for overrides, status in (({}, 403), ({"index": "demo"}, 403), ({"index": "mine"}, 404)):  # 404: no trainer here
        assert (await post("/v1/runs", mine, config="universe", overrides=overrides)).status_code == status


class Counted:
    """Counts cached results of two indexes."""

    async def contents(self) -> dict[tuple[str, str], Contents]:
        return {("demo", "v1"): Contents(2, 1), ("mine", "v1"): Contents(3, 0)}


async def test_statistics_of_the_cache_are_those_of_the_keys_indexes(store: FileKeys) -> None:
    cache = RagCache(Counted())  # type: ignore[arg-type]
    rest = Rest(rules=Rules(store), retriever=Two(), cache=cache)
    for indexes, seen in (((), ["demo", "mine"]), (("mine",), ["mine"])):
        headers = await key(store, Scope.EVALUATE, indexes=indexes)
        found = (await rest.http.get("/v1/cache", headers=headers)).json()
        assert [each["index"] for each in found["indexes"]] == seen


async def test_keys_are_made_listed_and_revoked_over_rest(store: FileKeys) -> None:
    rest = Rest(rules=Rules(store))
    admin = await key(store, Scope.ADMIN)
    body = {"name": "web", "scopes": ["ask"], "indexes": ["demo"], "days": 3, "limits": {"tokens_per_day": 9}}
    response = await rest.http.post("/v1/keys", json=body, headers=admin)
    assert response.status_code == 201
    made = response.json()
    assert (made["name"], made["scopes"], made["limits"]["tokens_per_day"]) == ("web", ["ask"], 9)
    mine = {"x-api-key": made["key"]}
    assert (await rest.http.get("/v1/methods", headers=mine)).status_code == 200
    listed = await rest.http.get("/v1/keys", headers=admin)
    assert {each["id"] for each in listed.json()} == {made["id"], id_of(admin["authorization"].removeprefix("Bearer "))}
    assert made["key"] not in listed.text
    assert "digest" not in listed.text
    assert (await rest.http.delete(f"/v1/keys/{made['id']}", headers=admin)).json() == {"id": made["id"]}
    assert (await rest.http.delete(f"/v1/keys/{made['id']}", headers=admin)).status_code == 404
    assert (await rest.http.get("/v1/methods", headers=mine)).status_code == 401
    for wrong in ({"name": "", "scopes": ["ask"]}, {"name": "a", "scopes": []}, {"name": "a", "scopes": ["all"]}):
        assert (await rest.http.post("/v1/keys", json=wrong, headers=admin)).status_code == 422


async def test_a_key_for_one_index_makes_no_key_for_another(store: FileKeys) -> None:
    rest = Rest(rules=Rules(store))
    admin = await key(store, Scope.ADMIN, indexes=["mine"])
    body = {"name": "web", "scopes": ["ask"]}
    response = await rest.http.post("/v1/keys", json={**body, "indexes": ["demo"]}, headers=admin)
    assert response.status_code == 403
    assert (await rest.http.post("/v1/keys", json=body, headers=admin)).json()["indexes"] == ["mine"]


async def test_a_key_for_one_index_manages_keys_for_it_alone(store: FileKeys) -> None:
    rest = Rest(rules=Rules(store))
    admin = await key(store, Scope.ADMIN, indexes=["mine", "ours"])
    ids = {}
    for name, indexes in {"all": [], "other": ["demo"], "more": ["mine", "demo"], "mine": ["mine"]}.items():
        secret = (await key(store, indexes=indexes))["authorization"].removeprefix("Bearer ")
        ids[name] = id_of(secret)
    listed = {each["id"] for each in (await rest.http.get("/v1/keys", headers=admin)).json()}
    assert listed & {*ids.values()} == {ids["mine"]}
    for name, status in {"all": 404, "other": 404, "more": 404, "mine": 200}.items():
        response = await rest.http.delete(f"/v1/keys/{ids[name]}", headers=admin)
        assert response.status_code == status, name
    assert {each.id for each in await store.all()} >= {ids["all"], ids["other"], ids["more"]}


async def test_without_keys_there_are_none_to_list() -> None:
    assert "GATEWAY_KEYS" in (await Rest().http.get("/v1/keys")).json()["detail"]


async def test_no_line_of_the_log_holds_a_question_or_a_key(
    store: FileKeys, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = root.handlers, root.level
    logs.configure("gateway", "info")
    try:
        rest = Rest(rules=Rules(store))
        mine = await key(store)
        answers = [await rest.http.post("/v1/answer", json={"question": "warsaw pact"}, headers=mine)]
        rest.generator.error = RuntimeError("warsaw pact")  # type: ignore[assignment]
        asked = {"question": "warsaw pact", "method": "direct"}
        answers.append(await rest.http.post("/v1/answer", json=asked, headers=mine))
        answers.append(await rest.http.post("/v1/answer", json=asked | {"stream": True}, headers=mine))
        rest.generator.error = GeneratorError(Failure.UNAVAILABLE, "it cannot be reached")
        rest.generator.error.__cause__ = OSError("ipv4:10.1.2.3:50053 refuses")
        answers.append(await rest.http.post("/v1/answer", json=asked, headers=mine))
        answers.append(await rest.http.post("/v1/answer", json=asked, headers={"x-api-key": "sa_wrong_key"}))
    finally:
        root.handlers, root.level = before
        structlog.reset_defaults()
    assert [answer.status_code for answer in answers] == [200, 500, 200, 503, 401]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = {line["event"] for line in lines}
    assert {"question answered", "request crashed", "stream crashed", "backend failed"} <= told
    assert {line.get("caller") for line in lines} == {id_of(mine["authorization"].removeprefix("Bearer "))}
    for secret in ("warsaw", "sa_", "10.1.2.3"):
        assert secret not in json.dumps(lines)


# limits


async def test_requests_a_minute(store: FileKeys) -> None:
    clock = Clock()
    rest = Rest(rules=Rules(store, Meter(MemoryCounters(clock), Limits(requests_per_minute=2))))
    mine, free = await key(store), await key(store, limits=Limits(requests_per_minute=0))
    first = await rest.http.get("/v1/methods", headers=mine)
    assert first.headers["ratelimit-policy"] == '"requests";q=2;w=60'
    assert first.headers["ratelimit"] == '"requests";r=1;t=60'
    clock.now += 20.5
    assert (await rest.http.get("/v1/methods", headers=mine)).headers["ratelimit"] == '"requests";r=0;t=40'
    response = await rest.http.get("/v1/methods", headers=mine)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "40"
    assert response.headers["ratelimit"] == '"requests";r=0;t=40'
    assert problem(response)["limit"] == "requests_per_minute"
    for _ in range(4):
        response = await rest.http.get("/v1/methods", headers=free)
        assert response.status_code == 200
        assert "ratelimit" not in response.headers
    clock.now += 40
    assert (await rest.http.get("/v1/methods", headers=mine)).status_code == 200


async def test_openais_clients_are_refused_in_their_own_shape(store: FileKeys) -> None:
    rest = Rest(rules=Rules(store))
    train, one = await key(store, Scope.TRAIN), await key(store, limits=Limits(requests_per_minute=1))
    body = {"model": "direct", "messages": [{"role": "user", "content": "q"}]}
    seen = {}
    for headers in ({}, train, one, one, {"content-type": "text/plain"} | one):
        response = await rest.http.post("/v1/chat/completions", json=body, headers=headers)
        seen[response.status_code] = response
        if response.status_code != 200:
            assert response.json()["error"]["message"]
    assert set(seen) == {200, 401, 403, 429}
    assert seen[429].headers["retry-after"] == "60"
    assert seen[429].headers["ratelimit"] == '"requests";r=0;t=60'
    assert seen[401].headers["www-authenticate"] == "Bearer"


async def test_tools_of_mcp_are_held_to_the_keys_indexes_and_tokens(store: FileKeys) -> None:
    rest = Rest(rules=Rules(store), retriever=Two())
    mine, poor = await key(store, indexes=["mine"]), await key(store, limits=Limits(tokens_per_day=5))

    async def call(headers: dict[str, str], name: str, **arguments: Any) -> dict[str, Any]:
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        spoken = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
        response = await rest.http.post("/mcp", json=request, headers=headers | spoken)
        result: dict[str, Any] = json.loads(response.text.partition("data: ")[2])["result"]
        return result

    refused = await call(mine, "retrieve", queries=["a"], index="demo")
    assert (refused["isError"], refused["structuredContent"]["missing_index"]) == (True, "demo")
    assert not (await call(mine, "retrieve", queries=["a"], index="mine"))["isError"]
    assert not (await call(poor, "answer", question="a", method="direct"))["isError"]
    refused = await call(poor, "answer", question="a", method="direct")
    assert (refused["isError"], refused["structuredContent"]["limit"]) == (True, "tokens_per_day")
    assert (await rest.http.post("/mcp", json={})).status_code == 401


async def test_tokens_a_day_are_those_of_both_models(store: FileKeys) -> None:
    clock = Clock()
    rest = Rest(rules=Rules(store, Meter(MemoryCounters(clock))))
    mine = await key(store, limits=Limits(tokens_per_day=50))
    asked = {"question": "what stands?"}
    first = await rest.http.post("/v1/answer", json=asked, headers=mine)
    assert first.headers["ratelimit"] == '"tokens";r=50;t=86400'
    usage = first.json()["usage"]
    used = usage["prompt_tokens"] + usage["completion_tokens"]
    assert used >= 30
    second = await rest.http.get("/v1/methods", headers=mine)
    assert second.headers["ratelimit"] == f'"tokens";r={max(0, 50 - used)};t=86400'
    asked["method"] = "direct"
    for _ in range(50):
        response = await rest.http.post("/v1/answer", json=asked, headers=mine)
        if response.status_code != 200:
            break
    assert response.status_code == 429
    assert problem(response)["limit"] == "tokens_per_day"
    assert response.headers["retry-after"] == "86400"
    assert (await rest.http.get("/v1/methods", headers=mine)).status_code == 200
    clock.now += 86400
    assert (await rest.http.post("/v1/answer", json=asked, headers=mine)).status_code == 200


class Slow(Generator):
    """Waits until it is let go."""

    def __init__(self) -> None:
        super().__init__("an answer")
        self.go, self.asked = asyncio.Event(), asyncio.Event()
        self.time_left = 0.0

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        self.time_left = context.time_left(1e9)
        self.asked.set()
        await self.go.wait()
        async for piece in super().stream(messages, sampling):
            yield piece


async def test_questions_at_once_whatever_ends_them(store: FileKeys) -> None:
    generator = Slow()
    rest = Rest(generator, rules=Rules(store, time_limit_s=77))
    mine, other = await key(store, limits=Limits(questions_at_once=1)), await key(store)
    asked = {"question": "q", "method": "direct"}

    async def ask(headers: dict[str, str]) -> httpx.Response:
        return await rest.http.post("/v1/answer", json=asked, headers=headers)

    first = asyncio.create_task(ask(mine))
    await generator.asked.wait()
    assert 76 < generator.time_left <= 77
    response = await ask(mine)
    assert response.status_code == 429
    assert problem(response)["limit"] == "questions_at_once"
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["ratelimit-policy"] == '"questions";q=1;qu="concurrent-requests"'
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    generator.go.set()
    assert (await ask(mine)).status_code == 200
    assert (await ask(other)).status_code == 200


# sizes


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size):
        yield b" " * 100


async def test_a_body_that_is_too_long_is_refused_before_it_is_read(store: FileKeys) -> None:
    rest = Rest(rules=Rules(body_bytes=1000))
    json = {"content-type": "application/json"}
    whole = await rest.http.post("/v1/retrieve", content=b" " * 1001, headers=json)
    parts = [await rest.http.post(path, content=chunks(11), headers=json) for path in ("/v1/retrieve", "/mcp")]
    for response in (whole, *parts):
        assert response.status_code == 413
        assert "1,000 bytes" in problem(response)["detail"]
    assert (await rest.http.post("/v1/retrieve", content=chunks(9), headers=json)).status_code == 422


@pytest.mark.parametrize("path", ["/v1/retrieve", "/mcp"])
async def test_a_body_that_does_not_come_in_time_is_given_up(path: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b" "
        await asyncio.sleep(60)

    rest = Rest(rules=Rules(body_timeout_s=0.05))
    response = await rest.http.post(path, content=endless(), headers={"content-type": "application/json"})
    assert response.status_code == 408
    problem(response)


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
@pytest.mark.parametrize("path", ["/v1/retrieve", "/v1/runs/x/cancel", "/v1/rollback"])
async def test_a_body_is_json_on_every_route(media: str, path: str) -> None:
    headers = {"content-type": media} if media else {}
    response = await Rest().http.post(path, content=b"{}", headers=headers)
    assert response.status_code == 415
    assert problem(response)["errors"][0]["field"] == "content-type"


# hosts and origins


@pytest.mark.parametrize(
    ("host", "answered"),
    [("localhost:8080", True), ("127.0.0.1", True), ("[::1]:8080", True), ("gateway:8080", True), ("::1", True),
     ("app.localhost", True), ("evil.example", False), ("evil.example:8080", False), ("", True),
     ("127.0.0.1.evil.example", False), ("localhost.evil.example.", False)],
)  # fmt: skip
async def test_without_keys_no_name_that_a_site_can_have_is_answered(host: str, answered: bool) -> None:
    response = await Rest().http.get("/v1/methods", headers={"host": host})
    assert response.status_code == (200 if answered else 421)


async def test_hosts_are_a_setting(store: FileKeys) -> None:
    rest = Rest(rules=Rules(hosts=("ask.example.org", "*.example.com")))
    for host, status in (("ask.example.org:443", 200), ("a.b.example.com", 200), ("example.com", 421),
                         ("localhost", 200), ("127.0.0.1", 200), ("other.org", 421),
                         ("ask.example.org.evil.net", 421)):  # fmt: skip
        assert (await rest.http.get("/healthz", headers={"host": host})).status_code == status, host
    rest = Rest(rules=Rules(store))
    assert (await rest.http.get("/v1/methods", headers={"host": "any.example"})).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://gateway", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://gateway"}, 404),
        ({"origin": "https://behind-a-proxy.example", "sec-fetch-site": "same-origin"}, 404),
        ({"origin": "https://app.example"}, 404),
        ({}, 404),
    ],
)
async def test_no_page_of_another_site_sends_a_request(headers: dict[str, str], status: int) -> None:
    rest = Rest(rules=Rules(origins=("https://app.example",)))
    response = await rest.http.post("/v1/runs/x/cancel", headers=headers)
    assert response.status_code == status
    problem(response)


async def test_pages_of_an_allowed_site_read_errors_too(store: FileKeys) -> None:
    rest = Rest(rules=Rules(store, origins=("https://app.example",)))
    origin = {"origin": "https://app.example"}
    preflight = await rest.http.options(
        "/v1/answer",
        headers={
            **origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        },
    )
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    rest.retriever.error = RuntimeError("a fault of ours")  # type: ignore[assignment]
    mine = await key(store)
    for path, headers, status in (("/v1/methods", {}, 401), ("/nowhere", {}, 404), ("/v1/indexes", mine, 500)):
        response = await rest.http.get(path, headers=origin | headers)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert "a fault of ours" not in response.text
        problem(response)
    other = await rest.http.get("/healthz", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


async def test_a_prefix_of_a_proxy_opens_no_way_around_the_door(store: FileKeys) -> None:
    rest = Rest(rules=Rules(store), root_path="/search-agent")
    mine = await key(store)
    for prefix in ("", "/search-agent"):
        assert (await rest.http.get(f"{prefix}/healthz")).status_code == 200
        assert (await rest.http.get(f"{prefix}/v1/methods", headers=mine)).status_code == 200
        for path in ("/v1/methods", "/v1/keys", "/v1/methods/", "/v1//methods", "/v1/./keys", "/%76%31/keys"):
            for verb in ("GET", "HEAD", "get"):
                response = await rest.http.request(verb, prefix + path)
                assert response.status_code in (307, 401, 404, 405), (verb, prefix + path)


# streams


async def test_a_silent_stream_beats() -> None:
    async def events() -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(0.05)
        yield "second"

    heard = [text async for text in with_heartbeats(events(), 0.02)]  # type: ignore[arg-type]
    assert heard[0] == "first"
    assert heard[-1] == "second"
    assert set(heard[1:-1]) == {": waiting\n\n"}


async def test_leaving_a_silent_stream_stops_its_work() -> None:
    stopped = asyncio.Event()

    async def events() -> AsyncIterator[str]:
        try:
            await asyncio.sleep(60)
            yield "never"
        finally:
            stopped.set()

    beating = with_heartbeats(events(), 0.01)  # type: ignore[arg-type]
    assert await anext(beating) == ": waiting\n\n"
    await beating.aclose()
    assert stopped.is_set()


async def test_streams_pass_through_proxies() -> None:
    response = await Rest().http.post("/v1/answer", json={"question": "q", "method": "direct", "stream": True})
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize(("sent", "seconds"), [("5", 5), ("0.5", 0.5), ("9999", 77)])
async def test_a_request_can_only_shorten_its_time(sent: str, seconds: float) -> None:
    generator = Slow()
    generator.go.set()
    rest = Rest(generator, rules=Rules(time_limit_s=77))
    asked = {"question": "q", "method": "direct"}
    assert (await rest.http.post("/v1/answer", json=asked, headers={"x-request-timeout": sent})).status_code == 200
    assert 0.8 * seconds < generator.time_left <= seconds


@pytest.mark.parametrize("sent", ["-1", "1e3", "nan", "soon", "1,5", "٣"])
async def test_a_time_that_is_no_number_is_refused(sent: str) -> None:
    rest = Rest()
    headers = {"x-request-timeout": sent.encode()}
    response = await rest.http.post("/v1/answer", json={"question": "q"}, headers=headers)  # type: ignore[arg-type]
    assert response.status_code == 400
    assert problem(response)["errors"][0]["field"] == "x-request-timeout"


async def test_a_question_may_be_kept_from_the_judge() -> None:
    private: list[bool] = []
    rest = Rest(offer=lambda *_: private.append(caller.current().is_private))
    for headers in ({}, {"x-no-shadow": "1"}):
        asked = {"question": "Who?", "method": "naive_rag"}
        assert (await rest.http.post("/v1/answer", json=asked, headers=headers)).status_code == 200
    assert private == [False, True]
