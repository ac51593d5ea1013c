"""bench.compare_servers: how servers are asked, started and compared."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import httpx
import pytest

from bench.compare_servers import (
    AS_PUBLISHED,
    REFERENCE,
    TOP_K,
    Client,
    Files,
    Server,
    median,
    overlap,
    servers,
)


def answering(request: httpx.Request) -> httpx.Response:
    asked = json.loads(request.content)
    assert (asked["topk"], asked["return_scores"]) == (TOP_K, True)
    found = [[{"document": {"id": f"{query} {rank}"}, "score": 1.0} for rank in range(2)] for query in asked["queries"]]
    return httpx.Response(200, json={"result": found})


def server(log: Path, program: str = "") -> Server:
    return Server("a server", 1, [([sys.executable, "-c", program], {"SAYS": "it is broken"})], log)


async def test_a_server_is_asked_for_the_ids_of_passages(tmp_path: Path) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answering)) as http:
        assert await Client(http).ask(server(tmp_path), ["a", "b"]) == [["a 0", "a 1"], ["b 0", "b 1"]]


async def test_load_counts_queries_and_not_calls(tmp_path: Path) -> None:
    asked: list[str] = []

    def noting(request: httpx.Request) -> httpx.Response:
        asked.extend(json.loads(request.content)["queries"])
        return answering(request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(noting)) as http:
        texts = map(str, itertools.count())
        began = time.perf_counter()
        told = await Client(http).load(server(tmp_path), texts, callers=2, batch=4, seconds=0.05)
        took = time.perf_counter() - began
    assert sorted(asked, key=int) == [str(number) for number in range(len(asked))]
    assert told["calls"] * 4 == len(asked)
    assert told["queries_per_s"] >= len(asked) / took
    assert 0 < told["p50_ms"] <= told["p95_ms"]


async def test_a_server_that_ends_at_the_start_is_told_of_with_its_log(tmp_path: Path) -> None:
    def refusing(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    broken = server(tmp_path / "log", "import os, sys; sys.exit(os.environ['SAYS'])")
    async with httpx.AsyncClient(transport=httpx.MockTransport(refusing)) as http:
        with pytest.raises(SystemExit, match=r"a server does not answer:\nit is broken"):
            await Client(http).started(broken)


def test_a_server_runs_until_it_is_stopped_and_tells_its_memory(tmp_path: Path) -> None:
    running = server(tmp_path / "log", "import time; time.sleep(60)")
    running.start()
    (process,) = running.processes
    told = running.memory()
    assert 0 < told["anonymous_mib"] <= told["resident_mib"]
    running.stop()
    assert process.poll() is not None
    assert running.processes == []


def test_projects_run_as_published_and_tuned_on_the_same_files(tmp_path: Path) -> None:
    files = Files(*(tmp_path / name for name in ("faiss", "corpus", "vectors", "encoder", "model", "ours")))
    args = argparse.Namespace(search_r1=tmp_path / "one", flashrag=tmp_path / "two", python="python")
    compared = {each.name: each.commands for each in servers(args, files, tmp_path)}
    assert {*AS_PUBLISHED, REFERENCE} <= compared.keys()
    for name in AS_PUBLISHED:
        ((published, _),), ((tuned, _),) = compared[name], compared[f"{name}, tuned"]
        assert "--tuned" not in published
        assert "--tuned" in tuned
        assert {str(files.faiss), str(files.corpus), str(files.model)} <= {*published} & {*tuned}
    ours = [commands for name, commands in compared.items() if name.startswith("ours")]
    assert all(len(commands) == 2 for commands in ours)  # a retriever and a gateway


def test_the_figures_are_medians_of_rounds() -> None:
    rounds = [{"p50_ms": 3.0, "calls": 1}, {"p50_ms": 1.0, "calls": 5}, {"p50_ms": 2.0, "calls": 3}]
    assert median(rounds) == {"p50_ms": 2.0, "calls": 3}


def test_overlap_is_the_mean_share_of_passages_that_both_found() -> None:
    ids = [str(number) for number in range(2 * TOP_K)]
    assert overlap([ids[:TOP_K], ids[:TOP_K]], [ids[:TOP_K][::-1], ids[TOP_K:]]) == 0.5
