"""Compares engines of the demo's models on CPUs: `python -m bench.cpu --out FILE`.

A generator service for each engine plays the demo's questions in turn, beside one retriever. Rows have the processor
seconds of the service, which other work on the machine changes little, and the seconds that the question took, which
are true on an idle machine only. "llama.cpp, stored weights" is llama.cpp's own server with the model as it is stored.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.processes import in_sessions, processor_s
from common.addresses import free_port
from common.backends import GrpcGenerator, GrpcPolicy, GrpcRetriever
from deploy.demo import DATA, demo_questions
from deploy.local import DEFAULTS, MODELS
from evaluation import questions
from search_agent.agents import AGENTS
from search_agent.errors import BoundaryError
from search_agent.grading.answers import matches
from search_agent.types import Question, Sampling
from search_agent.world import World
from services.generator.gguf_files import embedded_model
from services.generator.taught import card_of

STORED = "llama.cpp, stored weights"
ENGINES = (STORED, "llama.cpp", "openvino")
ANSWER = Sampling(max_tokens=64)
START_S, ASK_S = 300.0, 600.0


class Engine(NamedTuple):
    """A generator service: the leader of its processes, and its models in an agent's world."""

    pid: int
    world: World


@asynccontextmanager
async def service(name: str, settings: Mapping[str, str]) -> AsyncIterator[tuple[int, str]]:
    """Runs a service, and gives the id of its process and its address."""
    port, prefix = free_port(), name.upper()
    own = {f"{prefix}_PORT": str(port), f"{prefix}_METRICS_PORT": str(free_port())}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"services.{name}",
        env={**os.environ, **settings, **own},
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process.pid, f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def until_ready(policy: GrpcPolicy) -> None:
    """Waits for a generator service. Raises BoundaryError."""
    began = time.monotonic()
    while True:
        try:
            await policy.info()
            return
        except BoundaryError:
            if time.monotonic() - began > START_S:
                raise
            await asyncio.sleep(0.5)


@asynccontextmanager
async def engines(stored: Path, names: Sequence[str], threads: int) -> AsyncIterator[dict[str, Engine]]:
    """Runs a retriever and a generator service for each engine of `names`, and gives the engines by name."""
    settings = {  # of ENGINES
        STORED: {"GENERATOR_ENGINE": "llama.cpp", "GENERATOR_MODEL": str(stored)},
        "llama.cpp": {"GENERATOR_ENGINE": "llama.cpp"},
        "openvino": {"GENERATOR_ENGINE": "openvino"},
    }
    shared = {"GENERATOR_ADAPTERS": json.dumps(MODELS), "GENERATOR_THREADS": str(threads)}
    async with AsyncExitStack() as stack:
        _, address = await stack.enter_async_context(service("retriever", DEFAULTS))
        retriever = GrpcRetriever(address, ASK_S, START_S)
        stack.push_async_callback(retriever.close)
        found = {}
        for name in names:
            pid, address = await stack.enter_async_context(service("generator", shared | settings[name]))
            searcher, reader = GrpcPolicy(f"{address}/searcher", ASK_S), GrpcGenerator(f"{address}/reader", ASK_S)
            stack.push_async_callback(searcher.close)
            stack.push_async_callback(reader.close)
            await until_ready(searcher)
            found[name] = Engine(pid, World(retriever, searcher, reader))
        yield found


def used(engine: Engine) -> float:
    """Returns the processor seconds of a service so far."""
    return processor_s(in_sessions([engine.pid]))


async def measure(
    asked: Sequence[Question], methods: Sequence[str], names: Sequence[str], threads: int, callers: int
) -> dict[str, Any]:
    """Asks every question once by each method of each engine, `callers` at once, and returns rows and medians."""
    rows: list[dict[str, Any]] = []
    s3 = AGENTS["s3"].as_taught(card_of("", MODELS["searcher"]))
    agents = {"s3": s3, "naive_rag": AGENTS["naive_rag"].with_params({"top_k": 3})}

    async def ask(method: str, question: Question, engine: Engine) -> dict[str, Any]:
        began = time.perf_counter()
        played = await agents[method].play(question, engine.world, ANSWER)
        return {
            "id": question.id,
            "method": method,
            "seconds": round(time.perf_counter() - began, 2),
            "searches": played.usage.searches,
            "prompt_tokens": played.usage.prompt_tokens,
            "completion_tokens": played.usage.completion_tokens,
            "answer": played.answer,
            "right": bool(matches(question, played.answer or "")),
        }

    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "stored.gguf"  # by another name it is no longer the embedded model, which is converted
        stored.symlink_to(embedded_model())
        async with engines(stored, names, threads) as found:
            for engine in found.values():
                await ask("s3", questions.load(str(DATA / "qa_two_hops.jsonl.gz"))[-1], engine)  # compiles the grammars
            for at in range(0, len(asked), callers):
                for method in methods:
                    for name, engine in found.items():
                        before = used(engine)
                        together = asked[at : at + callers]
                        answers = await asyncio.gather(*(ask(method, each, engine) for each in together))
                        share = round((used(engine) - before) / len(together), 2)
                        rows += [{"engine": name, "processor_s": share, **answer} for answer in answers]
                        print(*map(json.dumps, rows[-len(together) :]), sep="\n", flush=True)
    return {"threads": threads, "callers": callers, "rows": rows, "medians": medians(rows), "answers": answers_of(rows)}


def medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns medians of seconds and processor seconds by method and searches ("s3, 2 searches") and by engine."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        kind = f"{row['method']}, {row['searches']} search{'es' * (row['searches'] != 1)}"
        found.setdefault(kind, {}).setdefault(row["engine"], []).append(row)
    return {
        kind: {
            engine: {what: round(statistics.median(row[what] for row in of), 2) for what in ("processor_s", "seconds")}
            for engine, of in sorted(each.items())
        }
        for kind, each in sorted(found.items())
    }


def answers_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns, by engine, the share of right answers and of answers that are those of the first engine."""
    found: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["engine"], {})[row["id"], row["method"]] = row
    first = next(iter(found.values()))
    return {
        engine: {
            "right": round(statistics.fmean(row["right"] for row in of.values()), 3),
            "same": round(statistics.fmean(row["answer"] == first[key]["answer"] for key, row in of.items()), 3),
        }
        for engine, of in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of each engine")
    parser.add_argument("--callers", type=int, default=1, help="questions asked at once")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--methods", nargs="+", choices=("s3", "naive_rag"), default=["s3", "naive_rag"])
    parser.add_argument(
        "--set", choices=("qa_dev", "qa_two_hops"), help="of data/demo, and not the demo's four questions"
    )
    parser.add_argument("--questions", type=int, default=200, help="of the set, at most")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    asked = questions.load(str(DATA / f"{args.set}.jsonl.gz"))[: args.questions] if args.set else demo_questions()
    result = asyncio.run(measure(asked, args.methods, args.engines, args.threads, args.callers))
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"medians": result["medians"], "answers": result["answers"]}, indent=1))


if __name__ == "__main__":
    main()
