"""Compares our retriever with a server of the reference's design: `python -m bench.retrieval --out FILE`.

Starts both over the same index and encoder and asks them alternately, with 1 to 256 callers. Each caller asks its own
questions one after another. Prints a table and writes JSON, which also has the time of our merged batches by stage.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from common import grpc_threads
from common.addresses import free_port
from evaluation import questions
from search_agent.errors import RetrieverError

DEADLINE_S = 120.0
START_S = 120.0
TOP_K = 8

Ask = Callable[[str], Awaitable[object]]


def started(stack: ExitStack, *command: str, **environment: str) -> int:
    """Starts a module of Python as a process that ends with the stack, and returns its id."""
    process = subprocess.Popen([sys.executable, "-m", *command], env=os.environ | environment)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process.pid


async def answers(ask: Ask) -> None:
    """Waits until the server answers a first question."""
    limit = time.monotonic() + START_S
    while True:
        try:
            await ask("Is anybody there?")
            return
        except (httpx.HTTPError, RetrieverError):
            if time.monotonic() > limit:
                raise SystemExit("a server does not answer") from None
            await asyncio.sleep(0.5)


async def measure(ask: Ask, texts: Iterator[str], callers: int, seconds: float) -> dict[str, float]:
    """Returns queries per second and milliseconds per query. Waits for calls in flight at the end and counts them."""
    took: list[float] = []
    began = time.perf_counter()

    async def one_caller() -> None:
        while (asked := time.perf_counter()) < began + seconds:
            await ask(next(texts))
            took.append((time.perf_counter() - asked) * 1e3)

    await asyncio.gather(*(one_caller() for _ in range(callers)))
    ranks = statistics.quantiles(took, n=100, method="inclusive")
    return {
        "queries_per_s": len(took) / (time.perf_counter() - began),
        "p50_ms": ranks[49],
        "p99_ms": ranks[98],
        "queries": len(took),
    }


def totals(metrics: str) -> dict[str, float]:
    """Reads our retriever's totals from its /metrics: batches, queries, and milliseconds by stage."""
    found: dict[str, float] = {}
    for sample in (each for family in text_string_to_metric_families(metrics) for each in family.samples):
        if sample.name == "search_agent_retriever_batch_queries_count":
            found["batches"] = sample.value
        elif sample.name == "search_agent_retriever_batch_queries_sum":
            found["queries"] = sample.value
        elif sample.name == "search_agent_retriever_stage_seconds_sum":
            found[f"{sample.labels['stage']}_ms"] = sample.value * 1e3
    return found


def a_batch(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Returns the mean batch between two totals."""
    batches = after["batches"] - before["batches"]
    return {name: (total - before.get(name, 0)) / batches for name, total in after.items() if name != "batches"}


async def compare(args: argparse.Namespace, ours: int, plain: int, metrics: int) -> list[dict[str, Any]]:
    from common import client
    from contracts.v1 import retriever_pb2, retriever_pb2_grpc

    asked = [question.text for question in questions.load(args.questions)]
    texts = itertools.cycle(asked)
    channel = client.connect(f"127.0.0.1:{ours}")
    stub = retriever_pb2_grpc.RetrieverStub(channel)
    limits = httpx.Limits(max_connections=None)
    http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{plain}", timeout=DEADLINE_S, limits=limits)

    async def ask_ours(text: str) -> object:
        request = retriever_pb2.SearchRequest(queries=[text], top_k=TOP_K, mode=retriever_pb2.DENSE)
        return await client.call(stub.Search, request, DEADLINE_S, RetrieverError)

    async def ask_plain(text: str) -> object:
        body = {"queries": [text], "topk": TOP_K, "return_scores": True}
        return (await http.post("/retrieve", json=body)).raise_for_status()

    async def measure_ours(callers: int) -> dict[str, Any]:
        before = totals((await http.get(f"http://127.0.0.1:{metrics}/metrics")).text)
        found = await measure(ask_ours, texts, callers, args.seconds)
        after = totals((await http.get(f"http://127.0.0.1:{metrics}/metrics")).text)
        return {**found, "a_batch": a_batch(before, after)}

    rows = []
    async with http:
        for ask in (ask_ours, ask_plain):
            await answers(ask)
            await measure(ask, texts, 4, 1.0)
        for callers in args.callers:
            found = []
            for _ in range(args.rounds):
                # alternately, since the machine's other load changes by the minute
                found.append([await measure_ours(callers), await measure(ask_plain, texts, callers, args.seconds)])
            middle = sorted(found, key=lambda pair: pair[0]["queries_per_s"] / pair[1]["queries_per_s"])[
                len(found) // 2
            ]
            rows.append({"callers": callers, "ours": middle[0], "plain": middle[1]})
            print(line(rows[-1]), flush=True)
    await channel.close()
    return rows


def line(row: dict[str, Any]) -> str:
    ours, plain = row["ours"], row["plain"]
    cells = [f"{each[key]:,.0f}" for key in ("queries_per_s", "p50_ms", "p99_ms") for each in (ours, plain)]
    times = ours["queries_per_s"] / plain["queries_per_s"]
    return f"| {row['callers']} | {' | '.join(cells)} | {times:.1f} | {ours['p99_ms'] / plain['p99_ms']:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.retrieval", description=__doc__)
    parser.add_argument("--index", type=Path, default=Path("data/demo/indexes/demo"), metavar="FOLDER")
    parser.add_argument("--questions", default="data/demo/qa_dev.jsonl.gz", metavar="SET")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16, 32, 64, 128, 256])
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="seconds per server and round (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds; the result is their median (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--gpus", type=int, default=0, help="GPUs that hold the vectors of both servers (default: none)"
    )
    args = parser.parse_args()
    grpc_threads.use_fewer()  # with uvloop below, as in the gateway, for whose calls those of this client stand
    ours, plain, metrics = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        started(
            stack,
            "services.retriever",
            RETRIEVER_INDEXES=str(args.index.parent),
            RETRIEVER_DEFAULT_INDEX=args.index.name,
            RETRIEVER_PORT=str(ours),
            RETRIEVER_METRICS_PORT=str(metrics),
            RETRIEVER_LOG_LEVEL="error",
            RETRIEVER_VERIFY_CHECKSUMS="false",  # a large index takes long to read
            RETRIEVER_GPUS=str(args.gpus),
        )
        started(stack, "bench.plain_server", str(args.index), "--port", str(plain), "--gpus", str(args.gpus))
        print("| callers | queries/s, ours | plain | p50 ms, ours | plain | p99 ms, ours | plain | × | p99 × |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        rows = uvloop.run(compare(args, ours, plain, metrics))
    about = {
        "index": str(args.index),
        "gpus": args.gpus,
        "top_k": TOP_K,
        "seconds": args.seconds,
        "rounds": args.rounds,
    }
    args.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
