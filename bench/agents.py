"""Plays questions by an agent over running services: `python -m bench.agents --out FILE`.

Each question goes on as soon as its call returns, and a new one begins as soon as another ends. `--calls` records what
the models were asked and how much they wrote, of which `bench.ceiling` makes vLLM's own ceiling. On a machine with a
GPU, the result also has the GPU's utilisation by all processes. `failed` counts questions that a service failed; all
other figures leave them out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

from common import pool
from common.backends import GrpcGenerator, GrpcPolicy, GrpcRetriever, dialogue
from evaluation import questions
from search_agent.agents import AGENTS
from search_agent.errors import BoundaryError
from search_agent.grading import answers
from search_agent.types import Completion, Message, ModelInfo, Question, Sampling, Span, Trajectory
from search_agent.world import Generator, Policy, World

TIMEOUT_S = 600.0
ANSWER_TOKENS = 64
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200")


@dataclass(frozen=True)
class Call:
    """A call of a model, with the tokens that it read and wrote. `model` is searcher or generator."""

    model: str
    messages: list[tuple[str, str]]
    read: int
    wrote: int


@dataclass
class Recorded:
    """Searcher and generator that keep the calls of one question."""

    searcher: Policy
    generator: Generator
    calls: list[Call] = field(default_factory=list)

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        completion = await self.searcher.complete(spans, sampling)
        self._keep("searcher", dialogue(spans), completion)
        return completion

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        last = Completion("")
        async for last in self.generator.stream(messages, sampling):
            yield last
        self._keep("generator", messages, last)

    async def info(self) -> ModelInfo:
        return await self.generator.info()

    def _keep(self, model: str, messages: Sequence[Message], last: Completion) -> None:
        said = [(each.role, each.content) for each in messages]
        self.calls.append(Call(model, said, last.prompt_tokens, last.completion_tokens))


@dataclass(frozen=True)
class Played:
    """A question that was played, from `began` to `ended` in seconds of the machine's clock."""

    began: float
    ended: float
    right: float
    trajectory: Trajectory
    calls: list[Call]


Results = tuple[list[Played], list[str]]  # the questions that were played, and how others failed


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


def summary(played: Sequence[Played], percent: Sequence[float]) -> dict[str, Any]:
    """Returns the rates, the times, and what a question cost on average."""
    took = statistics.quantiles([each.ended - each.began for each in played], n=100, method="inclusive")
    seconds = max(each.ended for each in played) - min(each.began for each in played)
    found = [each.trajectory for each in played]
    searcher = [call for each in played for call in each.calls if call.model == "searcher"]

    def mean(numbers: Iterator[float]) -> float:
        return sum(numbers) / len(played)

    return {
        "questions": len(played),
        "questions_per_s": len(played) / seconds,
        "p50_s": took[49],
        "p99_s": took[98],
        **({"gpu_percent": statistics.mean(percent)} if percent else {}),
        "right": mean(each.right for each in played),
        "calls": mean(len(each.calls) for each in played),
        "tokens_read": mean(each.usage.prompt_tokens for each in found),
        "tokens_written": mean(each.usage.completion_tokens for each in found),
        "searches": mean(each.usage.searches for each in found),
        "rewritten_turns": sum(each.usage.rewritten for each in found) / max(1, len(searcher)),
        "malformed_turns": sum(bool(turn.error) for each in found for turn in each.turns) / max(1, len(searcher)),
        "seconds": {
            name: mean(asdict(each.timings)[name] / 1e3 for each in found) for name in asdict(found[0].timings)
        },
        "ended": Counter(str(each.stop_reason) for each in found),
    }


async def play(asked: Sequence[Question], args: argparse.Namespace, number: int, at_once: int) -> Results:
    """Plays this process's questions over its services. Warms them up, and begins together with the other processes."""
    retriever = GrpcRetriever(_one_of(args.retriever, number), TIMEOUT_S)
    searcher = GrpcPolicy(args.searcher, TIMEOUT_S)
    generator = GrpcGenerator(args.generator, TIMEOUT_S)
    agent = AGENTS[args.method].with_params(json.loads(args.parameters))
    played: list[Played] = []
    failed: list[str] = []

    async def one(question: Question) -> None:
        models = Recorded(searcher, generator)
        began = time.perf_counter()
        try:
            found = await agent.play(question, World(retriever, models, models), Sampling(max_tokens=ANSWER_TOKENS))
        except BoundaryError as error:
            failed.append(f"{error.boundary}: {error}")
            return
        ended = time.perf_counter()
        played.append(Played(began, ended, answers.matches(question, found.answer or ""), found, models.calls))

    try:
        warm_up = max(2, at_once // 8)
        await pool.each(asked[:warm_up], one, at_once)
        played.clear()
        failed.clear()
        await asyncio.to_thread(_start.wait, TIMEOUT_S)
        await pool.each(asked[warm_up:], one, at_once)
    except BaseException:
        _start.abort()
        raise
    finally:
        for backend in (retriever, searcher, generator):
            await backend.close()
    return played, failed


def _one_of(addresses: str, number: int) -> str:
    """Returns the address, of several with commas in between, that a process uses for all of its questions."""
    several = addresses.split(",")
    return several[number % len(several)]


def _begin(barrier: Any) -> None:
    global _start
    _start = barrier


_start: Any = None  # a barrier of all processes


def _part(asked: Sequence[Question], args: argparse.Namespace, number: int, at_once: int) -> Results:
    return asyncio.run(play(asked, args, number, at_once))


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], list[Played]]:
    """Plays the questions in several processes at once. Returns the summary and the questions, as they ended."""
    at_once = max(1, args.at_once // args.processes)
    each = -(-args.limit // args.processes) + max(2, at_once // 8)
    asked = questions.pick(questions.load(args.questions), args.skip + each * args.processes, 0)[args.skip :]
    parts = [asked[number :: args.processes] for number in range(args.processes)]
    context = multiprocessing.get_context("spawn")  # gRPC's threads do not survive a fork
    barrier = context.Barrier(args.processes + 1)
    with context.Pool(args.processes, _begin, (barrier,)) as processes:
        work = [(part, args, number, at_once) for number, part in enumerate(parts)]
        results = processes.starmap_async(_part, work, chunksize=1)
        try:
            barrier.wait(TIMEOUT_S)
        except BrokenBarrierError:
            results.get()  # raises what has gone wrong there
            raise
        with gpu_use() as percent:
            done = results.get()
    played = sorted((one for part, _ in done for one in part), key=lambda one: one.ended)
    failed = [one for _, part in done for one in part]
    if not played:
        raise SystemExit(
            f"all questions failed, the first with {failed[0]}" if failed else "there are no such questions"
        )
    about = {"method": args.method, "parameters": args.parameters, "at_once": args.at_once, "processes": args.processes}
    return {**about, **summary(played, percent), "failed": len(failed), "failures": Counter(failed)}, played


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.agents", description=__doc__)
    parser.add_argument("--method", default="s3", choices=AGENTS)
    parser.add_argument("--parameters", default="{}", help="the method's parameters as JSON")
    parser.add_argument("--questions", default="data/demo/qa_dev.jsonl.gz", metavar="SET")
    parser.add_argument("--limit", type=int, default=1024, help="questions to play (default: %(default)s)")
    parser.add_argument("--skip", type=int, default=0, help="questions that the engine's prefix cache may know already")
    parser.add_argument("--at-once", type=int, default=256, help="questions at once (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="processes that play them (default: %(default)s)")
    several = "HOST:PORT, or several with commas in between, which the processes share out"
    parser.add_argument("--retriever", default="127.0.0.1:50051", metavar="HOST:PORT", help=several)
    distributed = "HOST:PORT/NAME, or HOST:PORT,HOST:PORT/NAME, over which each process distributes its questions"
    parser.add_argument("--searcher", default="127.0.0.1:50052", metavar="HOST:PORT", help=distributed)
    parser.add_argument("--generator", default="127.0.0.1:50053", metavar="HOST:PORT", help=distributed)
    parser.add_argument(
        "--calls", type=Path, metavar="FILE", help="write the calls of each question here, as JSON lines"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    result, played = measure(args)
    print({name: round(value, 3) for name, value in result.items() if isinstance(value, int | float)})
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.calls:
        with args.calls.open("w", encoding="utf-8") as file:
            for one in played:
                file.write(json.dumps([asdict(call) for call in one.calls]) + "\n")


if __name__ == "__main__":
    main()
