"""Measures the gateway's own cost, with backends that answer at once: `python -m bench.gateway`.

p50 and p99 are round trips of one client over HTTP; they include the time of the client and of the stub backends. The
cache is a redis-server that the benchmark starts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx

from common.addresses import free_port
from common.pushed import BEAT_S
from contracts.v1 import generator_pb2, retriever_pb2
from contracts.v1.generator_pb2_grpc import GeneratorServicer, add_GeneratorServicer_to_server
from contracts.v1.retriever_pb2_grpc import RetrieverServicer, add_RetrieverServicer_to_server

PASSAGE = retriever_pb2.Passage(id="p", title="Title", text="word " * 120, score=0.5)
INDEX = retriever_pb2.IndexInfo(name="stub", version="1", encoder="stub", is_default=True)
INDEXES = retriever_pb2.ListIndexesResponse(indexes=[INDEX])
MODEL = generator_pb2.ModelInfoResponse(model="stub@1")
CHAT = [{"role": "user", "content": "q"}]
CALL = {"name": "answer", "arguments": {"question": "q"}}
ACCEPT = {"accept": "application/json, text/event-stream"}  # which MCP demands
MOVE = "<important_info>[1]</important_info>\n<search_complete>True</search_complete>"


class Retriever(RetrieverServicer):
    async def Search(self, request: Any, context: Any) -> retriever_pb2.SearchResponse:
        ranked = retriever_pb2.RankedPassages(passages=[PASSAGE] * request.top_k)
        return retriever_pb2.SearchResponse(results=[ranked] * len(request.queries), index="stub", index_version="1")

    async def ListIndexes(self, request: Any, context: Any) -> retriever_pb2.ListIndexesResponse:
        return INDEXES

    async def WatchIndexes(self, request: Any, context: Any) -> AsyncIterator[retriever_pb2.ListIndexesResponse]:
        while True:
            yield INDEXES
            await asyncio.sleep(BEAT_S)


class Model(GeneratorServicer):
    async def ModelInfo(self, request: Any, context: Any) -> generator_pb2.ModelInfoResponse:
        return MODEL

    async def WatchModel(self, request: Any, context: Any) -> AsyncIterator[generator_pb2.ModelInfoResponse]:
        while True:
            yield MODEL
            await asyncio.sleep(BEAT_S)

    async def Generate(self, request: Any, context: Any) -> generator_pb2.GenerateResponse:
        return generator_pb2.GenerateResponse(text=MOVE, finish_reason=generator_pb2.STOP, model="stub@1")

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[generator_pb2.GenerateResponse]:
        yield generator_pb2.GenerateResponse(text="an answer", finish_reason=generator_pb2.STOP, model="stub@1")


def cpu_seconds(pid: int) -> float:
    """Returns the processor time, user and system, that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Body = Callable[[], dict[str, Any]]


async def measure(client: httpx.AsyncClient, path: str, body: Body | None, calls: int, at_once: int) -> list[float]:
    """Returns the milliseconds of each call. Without a body it is a GET."""

    async def worker() -> list[float]:
        times = []
        for _ in range(calls // at_once):
            began = time.perf_counter()
            response = await client.request("POST" if body else "GET", path, json=body() if body else None)
            times.append((time.perf_counter() - began) * 1e3)
            response.raise_for_status()
        return times

    return [t for times in await asyncio.gather(*(worker() for _ in range(at_once))) for t in times]


def same(**fields: Any) -> Body:
    """Makes the same request every time."""
    return lambda: fields


def new(**fields: Any) -> Body:
    """Makes a request with a new question every time."""
    number = itertools.count()
    return lambda: {**fields, "question": f"question {next(number)}"}


async def run(calls: int) -> list[dict[str, Any]]:
    server = grpc.aio.server()
    add_RetrieverServicer_to_server(Retriever(), server)
    add_GeneratorServicer_to_server(Model(), server)
    backend = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    port, redis_port = str(free_port()), str(free_port())
    redis = await asyncio.create_subprocess_exec(
        "redis-server", "--port", redis_port, "--save", "", stdout=asyncio.subprocess.DEVNULL
    )
    flags = ["--retriever", backend, "--searcher", backend, "--generator", backend, "--port", port]
    flags += ["--redis-url", f"redis://127.0.0.1:{redis_port}/0"]
    flags += ["--max-slowdown", "1000", "--first-at-once", "64"]  # nothing is refused: the rate is what it can do
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.gateway", *flags, "--log-level", "warning"
    )
    results = []
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=ACCEPT, timeout=30) as client:
            for _ in range(300):
                try:
                    if (await client.get("/readyz")).json()["backends"]["cache"] == "ok":
                        break
                except httpx.ConnectError:
                    pass
                await asyncio.sleep(0.1)
            for name, path, body in (
                ("healthz (floor of client and server)", "/healthz", None),
                ("retrieve", "/v1/retrieve", same(queries=["q"])),
                ("answer direct", "/v1/answer", new(method="direct")),
                ("answer naive_rag, not in the cache", "/v1/answer", new(method="naive_rag")),
                ("answer naive_rag, from the cache", "/v1/answer", same(question="q", method="naive_rag")),
                ("answer s3, one turn", "/v1/answer", new()),
                ("the same, streamed", "/v1/answer", new(stream=True)),
                ("chat completion of s3", "/v1/chat/completions", same(model="s3", messages=CHAT)),
                ("the same, streamed", "/v1/chat/completions", same(model="s3", messages=CHAT, stream=True)),
                ("response of s3", "/v1/responses", same(model="s3", input="q")),
                ("the same, streamed", "/v1/responses", same(model="s3", input="q", stream=True)),
                ("s3 over MCP", "/mcp", same(jsonrpc="2.0", id=1, method="tools/call", params=CALL)),
            ):
                await measure(client, path, body, 20, 1)
                before = cpu_seconds(gateway.pid)
                alone = sorted(await measure(client, path, body, calls, 1))
                own_ms = (cpu_seconds(gateway.pid) - before) / calls * 1e3
                began = time.perf_counter()
                await measure(client, path, body, calls, 16)
                rate = calls / (time.perf_counter() - began)
                p50, p99 = statistics.median(alone), alone[int(len(alone) * 0.99)]
                results.append(
                    {"request": name, "own_ms": own_ms, "p50_ms": p50, "p99_ms": p99, "per_second_at_16": rate}
                )
    finally:
        gateway.terminate()
        redis.terminate()
        await asyncio.gather(gateway.wait(), redis.wait())
        await server.stop(0)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--calls", type=int, default=400)
    args = parser.parse_args()
    results = asyncio.run(run(args.calls))
    print("| request | gateway's own CPU ms | p50 ms | p99 ms | requests/s, 16 at once |\n|---|---|---|---|---|")
    for row in results:
        times = " | ".join(f"{row[column]:.1f}" for column in ("own_ms", "p50_ms", "p99_ms"))
        print(f"| {row['request']} | {times} | {row['per_second_at_16']:.0f} |")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
