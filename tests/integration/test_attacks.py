"""Requests that once reached a file, a host or a module, or took a service down: each is a typed 4xx now.

The comments say what each could do until November 2026.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.test_trainer import World
from tests.trainer_fakes import FakeJobs

JSON = {"content-type": "application/json"}
RUN = {"config": "smollm2-demo"}
BOMB = "x: &a [1, 1]\n" + "".join(f"x{n}: &a{n} [*a, *a]\n" for n in range(9))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World(tmp_path, FakeJobs()) as world:
        yield world


def run(**overrides: Any) -> dict[str, Any]:
    return {**RUN, "overrides": overrides}


def verl(option: str, value: Any = "x") -> dict[str, Any]:
    return {**RUN, "overrides": {f"verl.{option}": value}}


RUNS: list[dict[str, Any]] = [
    # read any file of the trainer's machine
    run(**{"data.questions": "/etc/passwd"}),
    run(**{"gate.questions": "/etc/secrets.json#x"}),  # told the file's keys in the error
    run(**{"data.questions": "data/../../../etc/passwd"}),
    run(adapter="/etc"),
    {"config": "../../../etc/passwd"},
    {"config": "/etc/passwd"},
    {"config": "http://127.0.0.1/x"},
    {"config": "a\0b"},
    # called any host, with the judge's key
    run(retriever="169.254.169.254:80"),
    run(generator="evil.example:50053"),
    run(**{"data.scores": "redis://10.0.0.1:6379/0"}),
    run(**{"reward.judge": {"url": "http://evil.example/v1", "model": "m"}}),
    run(base_model="attacker/model"),
    # imported any module
    verl("actor_rollout_ref.model.external_lib"),
    verl("reward.custom_reward_function.path"),
    verl("actor_rollout_ref.model.trust_remote_code", True),
    verl("+actor_rollout_ref.model.trust_remote_code", True),
    verl("++trainer.default_local_dir"),
    verl("~trainer.default_local_dir"),
    verl("actor_rollout_ref.model", {"external_lib": "os"}),
    verl("trainer.logger", ["${oc.env:HOME}"]),
    # let every checkpoint through the gate
    run(**{"gate.margin": -1}),
    # unfolded to gigabytes, or crashed the trainer
    {"config": BOMB},
    {"config": "a: !!python/object/apply:os.system [id]"},
    {"config": "a: " + "[" * 2000 + "]" * 2000},
    {"config": "a: " + "9" * 5000},
    {"config": "a: 2001-99-99"},
    run(name="a" * 300),
    run(name="a/../../b"),
    run(seed=2**70),
    run(**{"data.limit": -(2**70)}),
    run(**{"verl.data.max_prompt_length": "x"}),
    run(**{"\ud800": 1}),
    run(**{"agent_parameters.mode": "\ud800"}),
    run(**{"": 1}),
]


@pytest.mark.parametrize("body", RUNS, ids=lambda body: json.dumps(body)[:70])
async def test_a_run_reaches_nothing_of_its_callers_choice(world: World, body: dict[str, Any]) -> None:
    response = await world.http.post("/v1/runs", content=json.dumps(body), headers=JSON)
    _is_typed(response)
    assert response.json()["errors"][0]["field"]
    assert world.jobs == {}
    assert not [*world.folder.glob("runs/*")]


QUERIES = {"queries": ["q"]}
REQUESTS: list[tuple[str, str]] = [
    ("/v1/answer", "[" * 100_000),
    ("/v1/answer", "[" * 100_000 + "]" * 100_000),
    ("/v1/search", '{"question": ' + "[" * 20_000 + "]" * 20_000 + "}"),
    ("/v1/search", '{"question": "q", "parameters": {"top_k": ' + "9" * 5000 + "}}"),
    ("/v1/search", json.dumps({"question": "q", "top_k": 2**70})),
    ("/v1/search", json.dumps({"question": "q", "max_documents": 2**70})),
    ("/v1/search", json.dumps({"question": "q", "max_turns": 1e300})),
    ("/v1/search", json.dumps({"question": "q" * 4001})),
    ("/v1/search", json.dumps({"question": "q", "method": "m" * 200_000})),
    ("/v1/retrieve", json.dumps({**QUERIES, "index": "i" * 300})),
    ("/v1/answer", json.dumps({"question": "q", "options": {"\ud800": "x"}})),
    ("/v1/answer", json.dumps({"question": "q", "instructions": "\ud800"})),
    ("/v1/answer", json.dumps({"question": "\ud800"})),
    ("/v1/retrieve", json.dumps({**QUERIES, "top_k": 2**70})),
    ("/v1/retrieve", json.dumps({**QUERIES, "index": "\ud800"})),
    ("/v1/retrieve", json.dumps({**QUERIES, "rerank": -(2**70)})),
    ("/retrieve", json.dumps({**QUERIES, "topk": 2**70})),
    ("/v1/retrieve", "\ufeff{}"),
    ("/v1/retrieve", "null"),
    ("/v1/runs/x/promote", json.dumps({"checkpoint": 2**32})),
    ("/v1/runs/x/promote", json.dumps({"checkpoint": 2**70})),
    ("/v1/runs/x/promote", json.dumps({"searcher": "__class__"})),
    ("/v1/rollback", json.dumps({"searcher": "\ud800"})),
    ("/v1/runs/" + "a" * 300 + "/cancel", "{}"),
    ("/v1/runs/..%2f..%2fetc/cancel", "{}"),
    ("/v1/runs/a%00b/cancel", "{}"),
    ("/v1/embeddings", json.dumps({"model": "m" * 300, "input": "\ud800"})),
    ("/v1/chat/completions", json.dumps({"model": "s3", "messages": [{"role": "user", "content": "\ud800"}]})),
    ("/v1/chat/completions", json.dumps({"model": "s3", "messages": [], "max_tokens": 2**70})),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=lambda value: str(value)[:60])
async def test_a_bad_request_is_a_typed_error(world: World, path: str, body: str) -> None:
    _is_typed(await world.http.post(path, content=body.encode("utf-8", "surrogatepass"), headers=JSON))


@pytest.mark.parametrize("path", ["/v1/answer", "/v1/retrieve", "/v1/runs", "/v1/rollback", "/v1/chat/completions"])
async def test_a_body_of_75_mb_is_not_read(world: World, path: str) -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        yield b'{"queries": ['
        for _ in range(75):
            read += 1
            yield b"{}," * 350_000

    response = await world.http.post(path, content=chunks(), headers=JSON)
    assert response.status_code == 413
    assert read <= 3


@pytest.mark.parametrize("query", ["word " * 800, "word " * 16_000, "\0", "\ud800", " " * 5000])
async def test_long_and_odd_queries_cost_no_more_than_others(world: World, query: str) -> None:
    body = json.dumps({"queries": [query] * 14, "top_k": 1})
    response = await world.http.post("/v1/retrieve", content=body, headers=JSON)
    assert response.status_code == 200 if len(body) < 1_000_000 else 413


@pytest.mark.parametrize("media", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_page_cannot_send_a_form(world: World, media: str) -> None:
    for path in ("/v1/runs", "/v1/rollback", "/v1/retrieve"):
        headers = {"content-type": media} if media else {}
        assert (await world.http.post(path, content=b"{}", headers=headers)).status_code == 415
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        assert (await world.http.post("/v1/runs", json=RUN, headers=headers)).status_code in (403, 421)
    assert world.jobs == {}


def _is_typed(response: httpx.Response) -> None:
    assert 400 <= response.status_code < 500, response.text[:300]
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json" or body["error"]["type"]
