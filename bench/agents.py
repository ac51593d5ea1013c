"""Runs questions through an agent at their own pace and in lock-step: `python -m bench.agents --out FILE`.

In lock-step every question waits until all others have asked for their next completion, search or answer, or have
ended; then all of these calls start at once, as in rollouts that run batch by batch. Services, models and agent are the
same in both. On a machine with a GPU, the result also has the GPU's utilisation by all processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from common.backends import GrpcGenerator, GrpcPolicy, GrpcRetriever
from evaluation import questions
from search_agent.agents import AGENTS, Agent
from search_agent.types import (
    Completion,
    IndexInfo,
    Message,
    ModelInfo,
    Question,
    Rankings,
    Retrieval,
    Sampling,
    Span,
)
from search_agent.world import World

TIMEOUT_S = 600.0
ANSWER_TOKENS = 64
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200")

Result = TypeVar("Result")


class LockStep:
    """A barrier for `running` episodes: their calls start when every episode waits with one, and end together."""

    def __init__(self, running: int) -> None:
        self._running = running
        self._waiting: list[tuple[Awaitable[Any], asyncio.Future[Any]]] = []
        self._steps: set[asyncio.Task[None]] = set()

    async def call(self, work: Awaitable[Result]) -> Result:
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        self._begin()
        return await done

    def leave(self) -> None:
        """Takes an episode that has ended out of the barrier."""
        self._running -= 1
        self._begin()

    def _begin(self) -> None:
        if self._waiting and len(self._waiting) == self._running:
            step = asyncio.create_task(self._step(self._waiting))
            self._waiting = []
            self._steps.add(step)  # the event loop holds weak references only
            step.add_done_callback(self._steps.discard)

    async def _step(self, calls: Sequence[tuple[Awaitable[Any], asyncio.Future[Any]]]) -> None:
        results = await asyncio.gather(*(work for work, _ in calls), return_exceptions=True)
        for result, (_, done) in zip(results, calls, strict=True):
            if isinstance(result, BaseException):
                done.set_exception(result)
            else:
                done.set_result(result)


class Synchronous:
    """Retriever, policy and generator whose calls go through a barrier."""

    def __init__(self, barrier: LockStep, world: World) -> None:
        self._barrier, self._world = barrier, world

    async def search(self, queries: Sequence[str], how: Retrieval) -> Rankings:
        return await self._barrier.call(self._world.retriever.search(queries, how))

    async def indexes(self) -> Sequence[IndexInfo]:
        return await self._world.retriever.indexes()

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        return await self._barrier.call(self._world.searcher.complete(spans, sampling))

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        async def all_of_it() -> list[Completion]:
            return [piece async for piece in self._world.generator.stream(messages, sampling)]

        for piece in await self._barrier.call(all_of_it()):
            yield piece

    async def info(self) -> ModelInfo:
        return await self._world.generator.info()


@contextmanager
def gpu_use(command: Sequence[str] = NVIDIA_SMI) -> Iterator[list[float]]:
    """Samples the first GPU's utilisation in percent while the context is open.

    `command` prints one sample per line. The list is filled on exit, and stays empty if there is no such program.
    """
    percent: list[float] = []
    if not shutil.which(command[0]):
        yield percent
        return
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    with tempfile.TemporaryFile() as printed, subprocess.Popen([*command, f"--id={first}"], stdout=printed) as process:
        try:
            yield percent
        finally:
            process.terminate()
            process.wait()
            printed.seek(0)
            percent += [float(line) for line in printed if line.strip().isdigit()]


async def play(agent: Agent, asked: Sequence[Question], lock_step: bool, world: World) -> dict[str, float]:
    """Plays all questions at once. Returns questions a second, seconds a question and GPU utilisation in percent."""
    barrier = LockStep(len(asked))
    if lock_step:
        ports = Synchronous(barrier, world)
        world = World(ports, ports, ports)
    took: list[float] = []

    async def one(question: Question) -> None:
        try:
            await agent.play(question, world, Sampling(max_tokens=ANSWER_TOKENS))
        finally:
            barrier.leave()
        took.append(time.perf_counter() - began)

    began = time.perf_counter()
    with gpu_use() as percent:
        await asyncio.gather(*(one(question) for question in asked))
    ranks = statistics.quantiles(took, n=100, method="inclusive")
    found = {"questions_per_s": len(asked) / max(took), "p50_s": ranks[49], "p99_s": ranks[98]}
    return found | ({"gpu_percent": statistics.mean(percent)} if percent else {})


async def compare(args: argparse.Namespace) -> dict[str, Any]:
    retriever = GrpcRetriever(args.retriever, TIMEOUT_S)
    policy, generator = GrpcPolicy(args.searcher, TIMEOUT_S), GrpcGenerator(args.generator, TIMEOUT_S)
    agent = AGENTS[args.method].with_params(json.loads(args.parameters))
    asked = questions.pick(questions.load(args.questions), args.limit * (2 * args.rounds + 1), 0)
    batches = [asked[at : at + args.limit] for at in range(0, len(asked), args.limit)]
    first = batches.pop()[: max(2, args.limit // 8)]
    world = World(retriever, policy, generator)
    await play(agent, first, False, world)  # warms up
    found: dict[str, list[dict[str, float]]] = {"own pace": [], "lock-step": []}
    for batch in batches:  # alternately, and no question twice: the prefix cache would know it
        kind = "own pace" if len(found["own pace"]) == len(found["lock-step"]) else "lock-step"
        found[kind].append(await play(agent, batch, kind == "lock-step", world))
        print(kind, {name: round(value, 2) for name, value in found[kind][-1].items()}, flush=True)
    for backend in (retriever, policy, generator):
        await backend.close()
    middle = {
        kind: {name: statistics.median(each[name] for each in rounds) for name in min(rounds, key=len)}
        for kind, rounds in found.items()
    }
    ratio = middle["own pace"]["questions_per_s"] / middle["lock-step"]["questions_per_s"]
    about = {"method": agent.name, "parameters": args.parameters, "at_once": args.limit, "rounds": args.rounds}
    return {**about, "median": middle, "ratio": ratio, "all": found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.agents", description=__doc__)
    parser.add_argument("--method", default="s3", choices=AGENTS)
    parser.add_argument("--parameters", default="{}", help="the method's parameters as JSON")
    parser.add_argument("--questions", default="data/demo/qa_dev.jsonl.gz", metavar="SET")
    parser.add_argument("--limit", type=int, default=256, help="questions at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each kind, alternately (default: %(default)s)")
    parser.add_argument("--retriever", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--searcher", default="127.0.0.1:50052", metavar="HOST:PORT")
    parser.add_argument("--generator", default="127.0.0.1:50053", metavar="HOST:PORT")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    result = asyncio.run(compare(args))
    print(f"own pace / lock-step: {result['ratio']:.2f}")
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
