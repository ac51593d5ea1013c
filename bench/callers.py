"""Times the demo for one caller and for several at once: `python -m bench.callers --out FILE`.

Starts the demo, unless `--url` names a running one. Several callers ask at once; each that the gateway refuses comes
again when it was told to. The time of a question is from its first request to its answer. Every question is asked once,
because the engine keeps what it has read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.addresses import free_port
from deploy.demo import DATA
from deploy.local import Stack
from evaluation import questions
from search_agent.grading.answers import matches
from search_agent.types import Question
from search_agent_client import AsyncClient, GatewayProblem


async def ask(client: AsyncClient, question: Question, method: str) -> dict[str, Any]:
    """Asks a question until it is admitted."""
    began, refusals = time.perf_counter(), 0
    while True:
        try:
            answer = await client.answer(question.text, method)
        except GatewayProblem as error:
            if error.retry_after_s is None:
                raise
            refusals += 1
            await asyncio.sleep(error.retry_after_s)
        else:
            return {
                "id": question.id,
                "seconds": round(time.perf_counter() - began, 2),
                "refusals": refusals,
                "searches": len(answer.turns),
                "answer": answer.answer,
                "right": bool(matches(question, answer.answer)),
            }


async def measure(url: str, asked: Sequence[Question], method: str, callers: int) -> dict[str, Any]:
    """Asks questions one after the other and so many at once in turn, and returns rows and medians."""
    rows: list[dict[str, Any]] = []
    async with AsyncClient(url) as client:
        await ask(client, asked[0], method)  # compiles the grammar
        for at in range(1, len(asked) - 2 * callers + 1, 2 * callers):
            alone, together = asked[at : at + callers], asked[at + callers : at + 2 * callers]
            answers = [await ask(client, question, method) for question in alone]
            rows += [{"callers": 1, **answer} for answer in answers]
            answers = await asyncio.gather(*(ask(client, question, method) for question in together))
            rows += [{"callers": callers, **answer} for answer in answers]
            print(*map(json.dumps, rows[-2 * callers :]), sep="\n", flush=True)
    return {"method": method, "medians": medians(rows), "rows": rows}


def medians(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the median seconds by the number of callers."""
    by_callers: dict[str, list[float]] = {}
    for row in rows:
        by_callers.setdefault(str(row["callers"]), []).append(row["seconds"])
    return {callers: round(statistics.median(seconds), 2) for callers, seconds in by_callers.items()}


@contextmanager
def _demo(url: str | None, logs: Path) -> Iterator[str]:
    """Gives the address of the running demo, or of one that is started here."""
    if url:
        yield url
    else:
        with Stack(free_port(), logs) as stack:
            yield stack.url


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.callers", description=__doc__)
    parser.add_argument("--url", help="of a gateway over the demo's index and models; not given: the demo is started")
    parser.add_argument("--method", default="s3")
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4, help="of as many questions alone, and as many at once")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    asked = questions.load(str(DATA / "qa_two_hops.jsonl.gz"))[: 1 + 2 * args.callers * args.rounds]
    with tempfile.TemporaryDirectory() as logs, _demo(args.url, Path(logs)) as url:
        result = asyncio.run(measure(url, asked, args.method, args.callers))
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["medians"]))


if __name__ == "__main__":
    main()
