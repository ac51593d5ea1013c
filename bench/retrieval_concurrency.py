"""Queries per second of a running retriever: one call after another, and from concurrent clients.

Both are measured in one run, in alternating rounds, with distinct queries, so nothing can be answered from
an earlier one. Prints a table, then the same as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import statistics
import time
from pathlib import Path
from typing import Any

from contracts.v1 import retriever_pb2, retriever_pb2_grpc
from search_agent.errors import RetrieverError
from services.common import client

DEADLINE_S = 60.0
WARM_UP = 8  # calls before the clock starts


def questions(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return list(dict.fromkeys(json.loads(line)["question"] for line in lines))


async def measure(stubs: list[Any], requests: list[retriever_pb2.SearchRequest]) -> dict[str, float]:
    """Sends `requests`, each stub one at a time; returns seconds, calls/s and milliseconds a call."""
    left, took = iter(requests), []

    async def one_client(stub: Any) -> None:
        for request in left:
            started = time.perf_counter()
            await client.call(stub.Search, request, DEADLINE_S, RetrieverError)
            took.append((time.perf_counter() - started) * 1e3)

    started = time.perf_counter()
    await asyncio.gather(*(one_client(stub) for stub in stubs))
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "calls_per_s": len(requests) / seconds,
        "p50_ms": statistics.median(took),
        "p95_ms": statistics.quantiles(took, n=20)[-1],
    }


async def compare(args: argparse.Namespace) -> dict[str, Any]:
    needed = WARM_UP + args.calls * 2 * args.rounds
    texts = questions(args.questions)
    if len(texts) < needed:
        raise SystemExit(f"{args.questions} has {len(texts)} distinct questions, {needed} are needed")
    mode = retriever_pb2.Mode.Value(args.mode.upper())
    requests = iter(
        retriever_pb2.SearchRequest(queries=[text], top_k=args.top_k, index=args.index, mode=mode) for text in texts
    )

    def take(count: int) -> list[retriever_pb2.SearchRequest]:
        return [next(requests) for _ in range(count)]

    channels = [client.connect(args.target) for _ in range(args.clients)]
    stubs = [retriever_pb2_grpc.RetrieverStub(channel) for channel in channels]
    await measure(stubs, take(WARM_UP))
    rounds = []
    for _ in range(args.rounds):
        one = await measure(stubs[:1], take(args.calls))
        many = await measure(stubs, take(args.calls))
        rounds.append({"one": one, "many": many, "ratio": many["calls_per_s"] / one["calls_per_s"]})
    await asyncio.gather(*(channel.close() for channel in channels))
    return {
        "mode": args.mode,
        "top_k": args.top_k,
        "clients": args.clients,
        "calls": args.calls,
        "rounds": rounds,
        "median_ratio": statistics.median(each["ratio"] for each in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="127.0.0.1:50051", help="the retriever's host:port")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--calls", type=int, default=320, help="of each kind and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--mode", choices=("dense", "bm25", "hybrid"), default="dense")
    parser.add_argument("--index", default="", help="default: the service's default index")
    parser.add_argument("--questions", type=Path, default=Path("data/demo/qa_dev.jsonl.gz"))
    result = asyncio.run(compare(parser.parse_args()))
    print(f"{'':<22}{'calls/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'ratio':>8}")
    for number, each in enumerate(result["rounds"], start=1):
        for label, row in (("one by one", each["one"]), (f"{result['clients']} clients", each["many"])):
            ratio = f"{each['ratio']:.2f}" if row is each["many"] else ""
            print(
                f"round {number} {label:<14}{row['calls_per_s']:>9.1f}{row['p50_ms']:>9.1f}"
                f"{row['p95_ms']:>9.1f}{ratio:>8}"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
