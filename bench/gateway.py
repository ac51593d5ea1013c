"""Measures the gateway's own cost, with backends that answer at once: `python -m bench.gateway`.

p50 and p99 are round trips of one client over HTTP; they include the time of the client and of the stub backends, a
process each, beside the gateway. The client writes prepared requests to a socket, because httpx takes about as long
as the gateway does for its health. The cache is a redis-server that the benchmark starts. With `--beside`, the gateway
of another checkout is measured in turns with this one; with `--processes`, several of this one are, whose callers are
dealt out evenly. Figures are medians over the rounds, and ratios are medians of each round's; the processor time that
each process takes for a request, of which Linux counts hundredths of a second, is the mean over the rounds.
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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from bench.processes import processor_s
from common.addresses import free_port

WARM_UP = 20  # calls before the first that is measured
ACCEPT = "application/json, text/event-stream"  # which MCP demands


Body = Callable[[], dict[str, Any]]


_numbers = itertools.count()


def question() -> str:
    """Returns a question that no cache holds, and nobody else asks."""
    return f"question {next(_numbers)}"


def chat() -> list[dict[str, str]]:
    return [{"role": "user", "content": question()}]


def call() -> dict[str, Any]:
    return {"name": "answer", "arguments": {"question": question()}}


_known = itertools.cycle(f"known {number}" for number in range(WARM_UP))  # each is asked before the first is measured

REQUESTS: dict[str, tuple[str, Body | None]] = {
    "healthz (floor of client and server)": ("/healthz", None),
    "retrieve": ("/v1/retrieve", lambda: {"queries": [question()]}),
    "answer direct": ("/v1/answer", lambda: {"question": question(), "method": "direct"}),
    "answer naive_rag, not in the cache": ("/v1/answer", lambda: {"question": question(), "method": "naive_rag"}),
    "answer naive_rag, from the cache": ("/v1/answer", lambda: {"question": next(_known), "method": "naive_rag"}),
    "answer s3, one turn": ("/v1/answer", lambda: {"question": question()}),
    "answer s3, streamed": ("/v1/answer", lambda: {"question": question(), "stream": True}),
    "chat of s3": ("/v1/chat/completions", lambda: {"model": "s3", "messages": chat()}),
    "chat of s3, streamed": ("/v1/chat/completions", lambda: {"model": "s3", "messages": chat(), "stream": True}),
    "response of s3": ("/v1/responses", lambda: {"model": "s3", "input": question()}),
    "response of s3, streamed": ("/v1/responses", lambda: {"model": "s3", "input": question(), "stream": True}),
    "s3 over MCP": ("/mcp", lambda: {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call()}),
}


async def calls_of_one(port: int, path: str, body: Body | None, calls: int) -> list[float]:
    """Makes calls one after the other over one connection. Returns the milliseconds of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\naccept: {ACCEPT}\r\n"
    times = []
    for _ in range(calls):
        sent = json.dumps(body()).encode() if body else b""
        about = f"content-type: application/json\r\ncontent-length: {len(sent)}\r\n" if body else ""
        began = time.perf_counter()
        writer.write(f"{head}{about}\r\n".encode() + sent)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"chunked" in answer:
            await reader.readuntil(b"0\r\n\r\n")
        else:
            await reader.readexactly(int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        times.append((time.perf_counter() - began) * 1e3)
        if not answer.startswith(b"http/1.1 2"):
            raise SystemExit(f"{path}: {answer.decode()}")
    writer.close()
    return times


@dataclass
class Gateways:
    """Gateways of one checkout, with what was measured of them: a value a round for each figure."""

    processes: list[asyncio.subprocess.Process]
    ports: list[int]
    load: Mapping[str, int]  # the ids of the processes beside them, by what they are
    figures: dict[str, list[float]] = field(default_factory=dict)

    def processor_s(self) -> float:
        return processor_s(each.pid for each in self.processes)

    def parts(self) -> dict[str, float]:
        """Returns the processor seconds so far of the gateways and of each process beside them."""
        beside = {f"{name}_ms_at_16": processor_s([pid]) for name, pid in self.load.items()}
        return {"gateways_ms_at_16": self.processor_s(), **beside}

    async def measure(self, path: str, body: Body | None, calls: int, at_once: int) -> None:
        """Makes calls from one caller, then from `at_once` callers, and notes the figures."""
        before = self.processor_s()
        alone = sorted(await calls_of_one(self.ports[0], path, body, calls))
        own_ms = (self.processor_s() - before) / calls * 1e3
        began, before = time.perf_counter(), self.parts()
        ports = itertools.islice(itertools.cycle(self.ports), at_once)
        await asyncio.gather(*(calls_of_one(port, path, body, calls // at_once) for port in ports))
        took, made = time.perf_counter() - began, calls // at_once * at_once
        for name, figure in {
            "own_ms": own_ms,
            "p50_ms": statistics.median(alone),
            "p99_ms": alone[int(len(alone) * 0.99)],
            "per_second_at_16": made / took,
            **{part: (seconds - before[part]) / made * 1e3 for part, seconds in self.parts().items()},
        }.items():
            self.figures.setdefault(name, []).append(figure)

    def medians(self) -> dict[str, float]:
        """Returns each figure, and what the cores of this machine could do if they did nothing else."""
        told = {
            name: (statistics.mean if name in self.parts() else statistics.median)(values)
            for name, values in self.figures.items()
        }
        told["per_second_at_most"] = len(os.sched_getaffinity(0)) * 1e3 / sum(told[part] for part in self.parts())
        return told


@asynccontextmanager
async def started(
    folder: Path, processes: int, flags: Sequence[str], load: Mapping[str, int]
) -> AsyncIterator[Gateways]:
    """Starts gateways of the checkout in `folder`, and stops them."""
    ports = [free_port() for _ in range(processes)]
    starting = [
        asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.gateway", *flags, "--port", str(port), "--log-level", "error", cwd=folder
        )
        for port in ports
    ]
    gateways = Gateways([await each for each in starting], ports, load)
    try:
        for port in ports:
            await _ready(port)
        yield gateways
    finally:
        for each in gateways.processes:
            each.terminate()
            await each.wait()


async def _ready(port: int) -> None:
    for _ in range(300):
        with suppress(OSError, SystemExit):
            await calls_of_one(port, "/readyz", None, 1)
            return
        await asyncio.sleep(0.1)
    raise SystemExit("the gateway does not become ready")


async def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    async with AsyncExitStack() as stack:
        stubs = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.stubs", stdout=asyncio.subprocess.PIPE
        )
        stack.callback(stubs.terminate)
        assert stubs.stdout
        backend = f"127.0.0.1:{int(await stubs.stdout.readline())}"
        redis_port = str(free_port())
        redis = await asyncio.create_subprocess_exec(
            "redis-server", "--port", redis_port, "--save", "", stdout=asyncio.subprocess.DEVNULL
        )
        stack.callback(redis.terminate)
        flags = ["--retriever", backend, "--searcher", backend, "--generator", backend]
        flags += ["--redis-url", f"redis://127.0.0.1:{redis_port}/0"]
        flags += ["--max-slowdown", "1000", "--first-at-once", "64"]  # nothing is refused: the rate is what it can do
        here = Path.cwd()
        shapes = {"": (here, 1)}
        if args.beside:
            shapes["beside"] = (args.beside, 1)
        if args.processes > 1:
            shapes[f"{args.processes} processes"] = (here, args.processes)
        load = {"client": os.getpid(), "stubs": stubs.pid, "redis": redis.pid}
        gateways = {
            name: await stack.enter_async_context(started(*shape, flags, load)) for name, shape in shapes.items()
        }
        return [await _row(name, gateways, args) for name in REQUESTS if args.only in name]


async def _row(name: str, gateways: dict[str, Gateways], args: argparse.Namespace) -> dict[str, Any]:
    path, body = REQUESTS[name]
    for each in gateways.values():
        each.figures.clear()
        for port in each.ports:
            await calls_of_one(port, path, body, WARM_UP)
    for number in range(args.rounds):
        turns = [*gateways.values()]
        for each in turns if number % 2 else reversed(turns):
            await each.measure(path, body, args.calls, 16)
    mine, *others = (each.medians() for each in gateways.values())
    row: dict[str, Any] = {"request": name, **mine}
    for (which, each), figures in zip([*gateways.items()][1:], others, strict=True):
        row[which] = figures | {
            f"{key}_ratio": statistics.median(
                a / b for a, b in zip(*(of.figures[key] for of in (gateways[""], each)), strict=True)
            )
            for key in ("own_ms", "p50_ms", "per_second_at_16")
        }
    return row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--calls", type=int, default=160, help="calls of a kind in each part of a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", default="", help="kinds of requests whose name contains this")
    parser.add_argument(
        "--beside", type=Path, help="another checkout, whose gateway is measured in turns with this one"
    )
    parser.add_argument("--processes", type=int, default=1, help="gateways to measure beside one")
    args = parser.parse_args()
    rows = uvloop.run(run(args))
    print("| request | gateway's own CPU ms | p50 ms | p99 ms | requests/s, 16 at once |\n|---|---|---|---|---|")
    for row in rows:
        times = " | ".join(f"{row[column]:.2f}" for column in ("own_ms", "p50_ms", "p99_ms"))
        print(f"| {row['request']} | {times} | {row['per_second_at_16']:.0f} |")
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
