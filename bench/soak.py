"""Watches the memory of a Compose stack's processes under steady load: `python -m bench.soak --out FILE`.

The environment names the project (COMPOSE_PROJECT_NAME, COMPOSE_FILE). First two callers ask as fast as they are
answered, which gives the rate that the stack admits; then requests arrive at random at a share of that rate. A tenth of
the questions are streams whose callers leave. Memory is in MB of the kernel's smaps_rollup; a leak shows
in the anonymous part, since pages of the index's files come in as they are read. Only a process of this
machine may be asked, because the load has no other limit than the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import itertools
import json
import random
import re
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from bench import load

SERVICES = ("gateway", "retriever", "generator", "trainer", "redis", "prometheus")
EVERY_S = 10
INDEX = "soak"
_SIZES = {name.lower(): re.compile(rf"^{name}: +(\d+)", re.M) for name in ("Rss", "Pss", "Pss_Anon")}


class Mix:
    """Requests of all kinds. A kind returns what became of one request; LEFT is a stream whose caller hung up."""

    LEFT = "left"

    def __init__(self, http: httpx.AsyncClient, seed: int) -> None:
        self._http, self._random = http, random.Random(seed)
        self._questions = itertools.cycle(load.questions(seed))
        self._known = [next(self._questions) for _ in range(20)]
        self._texts = itertools.count()
        self.kinds: dict[str, tuple[int, Callable[[], Awaitable[str]]]] = {
            "naive_rag, cached": (15, lambda: self._ask(question=self._random.choice(self._known), top_k=1)),
            "naive_rag, new": (15, lambda: self._ask(question=next(self._questions))),
            "s3": (10, lambda: self._ask(question=next(self._questions), method="s3", max_turns=1)),
            "s3, two turns": (3, lambda: self._ask(question=next(self._questions), method="s3", max_turns=2)),
            "direct": (7, lambda: self._ask(question=next(self._questions), method="direct")),
            "stream": (5, lambda: self._stream(leaves_after=None)),
            "stream, left": (10, lambda: self._stream(leaves_after=self._random.uniform(0.1, 3))),
            "retrieve": (30, self._retrieve),
            "upload": (5, self._upload),
        }

    async def one(self) -> tuple[str, str]:
        """Sends a request of a random kind and returns the kind with what became of it."""
        names = [*self.kinds]
        (name,) = self._random.choices(names, [weight for weight, _ in self.kinds.values()])
        return name, await self.kinds[name][1]()

    async def _ask(self, **body: Any) -> str:
        return (await load.send(self._http, "/v1/answer", {"method": "naive_rag", **body})).said

    async def _retrieve(self) -> str:
        mode = self._random.choice(["dense", "bm25", "hybrid"])
        index = self._random.choice(["", INDEX]) if mode == "bm25" else ""
        body = {"queries": [next(self._questions)], "top_k": 8, "mode": mode, **({"index": index} if index else {})}
        return (await load.send(self._http, "/v1/retrieve", body)).said

    async def _upload(self) -> str:
        """Replaces one of fifty passages, so that the index does not grow."""
        number = next(self._texts)
        passage = {"id": f"p{number % 50}", "title": f"Passage {number}", "text": " ".join([next(self._questions)] * 9)}
        return (await load.send(self._http, f"/v1/indexes/{INDEX}/passages", [passage])).said

    async def _stream(self, leaves_after: float | None) -> str:
        body = {"question": next(self._questions), "method": "s3", "max_turns": 1, "stream": True}
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(leaves_after),
                self._http.stream("POST", "/v1/answer", json=body, timeout=300) as response,
            ):
                await response.aread()
                if not response.is_success:
                    return load.outcome(began, response).said
                last = response.text.rsplit("event: ", 1)[-1].split("\n", 1)[0]
                return "200" if last.strip() == "done" else f"200 ended by {last.strip()!r}"
        except TimeoutError:
            return self.LEFT
        except httpx.HTTPError as error:
            return f"no response ({type(error).__name__})"


class Watch:
    """Reads the memory of each process of the stack; a process is named by its service, its part and its id."""

    def __init__(self) -> None:
        self._containers = {service: compose("ps", "--quiet", service).strip() for service in SERVICES}
        self.samples: dict[str, list[tuple[float, dict[str, float]]]] = collections.defaultdict(list)

    async def run(self) -> None:
        began = time.monotonic()
        while True:
            for service, container in self._containers.items():
                for pid, part in await asyncio.to_thread(processes, container):
                    if sizes := memory(pid):
                        self.samples[f"{service}{part} {pid}"].append((time.monotonic() - began, sizes))
            await asyncio.sleep(EVERY_S)


def compose(*arguments: str) -> str:
    """Runs a command of Compose and returns what it wrote."""
    command = ["docker", "compose", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def processes(container: str) -> list[tuple[int, str]]:
    """Returns the host's ids of a container's processes but for its init, each with its part of the service."""
    command = ["docker", "top", container, "-o", "pid,args"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    rows = [line.split(maxsplit=1) for line in shown.splitlines()[1:]]
    return [
        (int(pid), " (engine)" if "llama_process" in args else "")
        for pid, args in rows
        if not args.startswith("/sbin/docker-init")
    ]


def memory(pid: int) -> dict[str, float]:
    """Returns the MB of a process, or nothing if it has ended."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return {}
    return {name: round(int(found[1]) / 1024, 2) for name, size in _SIZES.items() if (found := size.search(told))}


async def capacity(mix: Mix, seconds: float) -> float:
    """Returns the requests a second that are admitted of two callers who wait for nothing but their answers."""
    began = time.monotonic()

    async def caller() -> int:
        done = 0
        while time.monotonic() < began + seconds:
            _, end = await mix.one()
            done += not end.startswith("503")
        return done

    done = await asyncio.gather(caller(), caller())
    return sum(done) / (time.monotonic() - began)


async def arrivals(mix: Mix, rate: float, seconds: float, seed: int) -> dict[str, dict[str, int]]:
    """Sends requests at random times and returns what became of them by kind."""
    pauses, end = random.Random(seed), time.monotonic() + seconds
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

    async def one() -> None:
        kind, end = await mix.one()
        outcomes[kind][end] += 1

    async with asyncio.TaskGroup() as under_way:
        while time.monotonic() < end:
            under_way.create_task(one())
            await asyncio.sleep(pauses.expovariate(rate))
    return {kind: dict(found.most_common()) for kind, found in sorted(outcomes.items())}


def trend(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Returns the slope in MB an hour with its 95 % interval, and the means of the first and the last third.

    Samples of ten seconds depend on each other, so the line is fitted to the means of each minute.
    """
    minutes: dict[int, list[float]] = collections.defaultdict(list)
    for at, size in samples:
        minutes[int(at // 60)].append(size)
    x = [minute / 60 for minute in minutes]
    y = [statistics.fmean(sizes) for sizes in minutes.values()]
    slope, intercept = statistics.linear_regression(x, y)
    left = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True)) / (len(x) - 2)
    half = 2 * (left / sum((a - statistics.fmean(x)) ** 2 for a in x)) ** 0.5
    third = len(samples) // 3
    first, last = (statistics.fmean(size for _, size in part) for part in (samples[:third], samples[-third:]))
    figures = {
        "mb_per_hour": slope,
        "low": slope - half,
        "high": slope + half,
        "first_third": first,
        "last_third": last,
    }
    return {name: round(figure, 2) for name, figure in figures.items()} | {"last_over_first": round(last / first, 4)}


def report(watch: Watch, warm_up_s: float) -> dict[str, Any]:
    """Returns the trend of each process after the warm-up, and its samples; a health check's process ends too soon."""
    processes = {}
    for name, samples in watch.samples.items():
        warm = [(at, sizes) for at, sizes in samples if at >= warm_up_s]
        if len(warm) >= 30:
            trends = {kind: trend([(at, sizes[kind]) for at, sizes in warm]) for kind in _SIZES}
            processes[name] = {
                **trends,
                "samples": len(samples),
                "pss_anon_mb": [sizes["pss_anon"] for _, sizes in samples],
            }
    growth = [each["pss_anon"]["last_over_first"] for each in processes.values()]
    return {"processes": processes, "most_growth": max(growth, default=None)}


async def soak(args: argparse.Namespace) -> dict[str, Any]:
    async with load.client(args.url) as http:
        mix, watch = Mix(http, args.seed), Watch()
        await load.send(http, "/v1/indexes", {"name": INDEX, "encoder": ""})
        rate = args.rate or args.share * await capacity(mix, args.capacity_seconds)
        print(f"{rate:.2f} requests a second", flush=True)
        watching = asyncio.create_task(watch.run())
        outcomes = await arrivals(mix, rate, args.seconds, args.seed)
        watching.cancel()
        return {
            "seconds": args.seconds,
            "warm_up_s": args.warm_up,
            "requests_per_s": round(rate, 3),
            "outcomes": outcomes,
            **report(watch, args.warm_up),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--warm-up", type=float, default=420, help="seconds that the trends leave out")
    parser.add_argument("--share", type=float, default=0.8, help="of the rate that is admitted")
    parser.add_argument("--rate", type=float, default=0, help="requests a second, instead of a share")
    parser.add_argument("--capacity-seconds", type=float, default=90)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    args.out.write_text(json.dumps(asyncio.run(soak(args)), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
