"""`evaluate` and `precompute` on a Ray cluster of two nodes give the same results, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from common.addresses import free_port
from evaluation import precompute, run
from evaluation.endpoints import Endpoints
from evaluation.errors import EvaluateProblem
from evaluation.rows import Row
from search_agent.types import Question
from tests.integration.conftest import RedisServer
from tests.integration.dying import deaths, dying, unopened
from tests.integration.test_evaluate import rows, start, written
from tests.integration.test_precompute import QUESTIONS as SCORED
from tests.integration.test_precompute import Stack
from tests.stub_gateway import stub_gateway
from tests.waiting import LIMIT_S, until

QUESTIONS = [Question(f"q{n}", f"question {n}", ("gold",)) for n in range(20)]
Ask = Callable[[run.Task], Awaitable[Row]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as environment:
        # its own token keeps others on the network out, and overrides files in the home folder
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        from ray.cluster_utils import Cluster  # reads the environment when it is imported

        settings = {"num_cpus": 1, "object_store_memory": 80 << 20}
        # A dead node is noticed at its fifth missed check, in half a second and not in a quarter of a minute.
        head = {"include_dashboard": False, "_system_config": {"health_check_period_ms": 100}}
        made = Cluster(initialize_head=True, head_node_args={**settings, **head})
        made.add_node(**settings)
        yield made
        made.shutdown()


def only_the_bar(err: str) -> bool:
    return all("%|" in line for line in err.replace("\r", "\n").split("\n") if line)


async def go(url: str, out: Path, ask: Ask) -> run.Outcome:
    plan = run.Plan("set", QUESTIONS, ("s3", "naive_rag"), out)
    async with Endpoints(url, 30).open() as (gateway, grader):
        return await run.run(plan, gateway, grader.facts, ask, lambda _: None)


def test_a_killed_run_goes_on_and_ends_as_it_would_here(cluster: Any, tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    lines = [{"id": each.id, "question": each.text, "golden_answers": each.golds} for each in QUESTIONS]
    questions.write_text("\n".join(map(json.dumps, lines)))
    there, here = tmp_path / "there", tmp_path / "here"
    go_on = threading.Event()
    with stub_gateway(go_on=go_on, before=12) as (url, asked):
        process = start(url, questions, there, "--ray", cluster.address)
        until(lambda: written(there) >= 5)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        go_on.set()
        before = rows(there)
        assert 5 <= len(before) < 40
        process = start(url, questions, there, "--ray", cluster.address)
        _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, err
        assert sum(asked.values()) <= 40 + 4  # questions in flight when it was killed
        assert only_the_bar(err), err
        start(url, questions, here).communicate(timeout=LIMIT_S)
    assert rows(there) == rows(here)
    assert all(row in rows(there) for row in before)


def test_ctrl_c_stops_at_once(cluster: Any, tmp_path: Path) -> None:
    with stub_gateway(delay_s=0.5) as (url, asked):
        ours = signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in the background of a shell, and by children too
        process = start(url, Path("data/demo/qa_dev.jsonl.gz"), tmp_path, "--ray", cluster.address)
        signal.signal(signal.SIGINT, ours)
        until(lambda: asked)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert err.endswith("search-agent: interrupted\n")
    assert "Traceback" not in err


async def test_a_failure_is_counted_as_it_is_here(cluster: Any, tmp_path: Path) -> None:
    from evaluation import on_ray

    with stub_gateway() as (url, _):
        opening = partial(run.asking, Endpoints(url, 30, judge_url="http://127.0.0.1:9/v1", judge_model="judge-1"))
        async with opening() as ask:
            here = await go(url, tmp_path / "here", ask)
        async with on_ray.actors(cluster.address, opening, 4) as ask:
            there = await go(url, tmp_path / "there", ask)
    assert here.failures == there.failures
    assert {what for _, _, what in there.failures} == {"judge: unavailable"}
    assert len(there.rows) + sum(there.failures.values()) == 40
    failures = [
        (folder / "failures.jsonl").read_bytes().splitlines() for folder in (tmp_path / "here", tmp_path / "there")
    ]
    assert sorted(failures[0]) == sorted(failures[1])


@pytest.mark.parametrize("times", [1, 100])
async def test_an_actor_that_dies(cluster: Any, tmp_path: Path, times: int) -> None:
    from evaluation import on_ray

    marker = tmp_path / "deaths"
    with stub_gateway(delay_s=0.02) as (url, asked):
        opening = partial(dying, Endpoints(url, 30), "question 7", marker, times)
        async with on_ray.actors(cluster.address, opening, 4) as ask:
            outcome = await go(url, tmp_path, ask)
    found = Counter((row["id"], row["method"]) for row in rows(tmp_path))
    assert set(found.values()) == {1}
    if times == 1:
        assert len(found) == len(outcome.rows) == 40
        assert not outcome.failures
    else:  # a question that kills its actor every time fails, and so may one that was in flight beside it
        assert ("q7", "s3") not in found
        assert {what for _, _, what in outcome.failures} == {"ray: unavailable"}
        assert sum(outcome.failures.values()) == 40 - len(found) <= 4
        assert len(deaths(marker)) == on_ray.ATTEMPTS
    assert set(asked) >= {(f"question {id[1:]}", method) for id, method in found}


def test_a_node_that_dies(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    more = ("--ray", cluster.address, "--limit", "30", "--concurrency", "6")
    with stub_gateway(delay_s=0.2) as (url, asked):
        process = start(url, Path("data/demo/qa_dev.jsonl.gz"), tmp_path, *more)
        until(lambda: len(asked) > 8)
        cluster.remove_node(node, allow_graceful=False)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert Counter((row["id"], row["method"]) for row in rows(tmp_path)).total() == 60
    assert len({(row["id"], row["method"]) for row in rows(tmp_path)}) == 60
    assert only_the_bar(err)
    assert out.startswith("# "), out  # and no output of Ray before the report


async def test_precomputing(cluster: Any, redis_server: RedisServer) -> None:
    from evaluation import on_ray

    stack, port = Stack(redis_server.url), free_port()
    server = uvicorn.Server(uvicorn.Config(stack.app, port=port, log_config=None))
    serving = asyncio.create_task(server.serve())
    try:
        endpoints = Endpoints(f"http://127.0.0.1:{port}", 30)
        opening = partial(precompute.scoring, endpoints, redis_server.url, {})
        async with endpoints.open() as (gateway, _), on_ray.actors(cluster.address, opening, 3) as score:
            for known in (0, 12):
                outcome = await precompute.precompute(SCORED, gateway, stack.store, score, 3, lambda _: None)
                assert (outcome.right, outcome.known, stack.generations) == (8, known, 12)
                assert [question.id for question in outcome.wrong] == ["q0", "q3", "q6", "q9"]
        elsewhere = partial(precompute.scoring, endpoints, "redis://127.0.0.1:9/0", {})
        async with on_ray.actors(cluster.address, elsewhere, 3) as score:
            with pytest.raises(Exception, match="Redis does not answer") as raised:
                await score(replace(SCORED[0], id="new"))
            assert type(raised.value).__name__ == "CacheError"
    finally:
        server.should_exit = True
        await serving
        await stack.http.aclose()
        await stack.store.close()
        await stack.gateway_store.close()


async def test_actors_that_cannot_start(cluster: Any) -> None:
    from evaluation import on_ray

    with pytest.raises(EvaluateProblem, match="actors cannot start: nothing here"):
        async with on_ray.actors(cluster.address, unopened, 2):
            pass


@pytest.mark.parametrize(
    ("address", "said"), [("127.0.0.1:9", "Connection refused"), ("here", "neither HOST:PORT"), ("h:1x", "Port")]
)
def test_a_cluster_that_is_not_there_is_said(address: str, said: str, tmp_path: Path) -> None:
    with stub_gateway() as (url, _):
        process = start(url, Path("data/demo/qa_dev.jsonl.gz"), tmp_path, "--ray", address)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert err.startswith(f"search-agent: no Ray cluster at {address}: ")
    assert said in err
    assert err.count("\n") == 1


def test_ray_that_is_not_installed_is_said(tmp_path: Path) -> None:
    command = "import sys; sys.modules['ray'] = None; from cli.main import main; sys.exit(main())"
    asked = ["evaluate", "--questions", "data/demo/qa_dev.jsonl.gz", "--out", str(tmp_path), "--ray", "auto"]
    ran = subprocess.run([sys.executable, "-c", command, *asked], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "search-agent: --ray needs Ray: pip install search-agent[ray]\n"
