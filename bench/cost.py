"""Counts what a question costs by each method in the demo: `python -m bench.cost WORK --out FILE`.

One caller asks every method the same questions, one after another, of a stack of its own. WORK keeps each answer's
cost, and the same command goes on where it was stopped, so that a long run can be taken in pieces. Processor seconds
depend little on what else runs if the models have one thread (GENERATOR_THREADS=1): several wait for each other by
spinning.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import load
from bench.processes import in_sessions, processor_s
from common.addresses import free_port
from common.journal import Journal
from deploy.local import Stack
from evaluation import questions
from evaluation.rows import row_of
from search_agent.types import Question
from search_agent_client import Client

METHODS = (
    *("direct", "cot", "naive_rag:top_k=1", "naive_rag:top_k=3", "naive_rag:top_k=8"),
    *("s3", "search_r1", "ircot", "search_o1"),
)


@dataclass(frozen=True)
class Cost:
    """The cost of one question by one method. `right` is 1.0 if the answer is."""

    method: str
    id: str
    right: float
    passages: int
    searches: int
    tokens_read: int
    tokens_written: int
    seconds: float
    processor_s: float


def parsed(spec: str) -> dict[str, Any]:
    """Returns the fields of a request that ask for a method, such as naive_rag:top_k=8."""
    name, *pairs = spec.split(":")
    return {"method": name, **{key: int(value) for key, _, value in (pair.partition("=") for pair in pairs)}}


def ask(client: Client, spec: str, question: Question, leaders: Collection[int]) -> Cost:
    """Asks one question by one method. Raises GatewayError."""
    before, began = processor_s(in_sessions(leaders)), time.perf_counter()
    answer = client.answer(question=question.text, **parsed(spec))
    seconds = time.perf_counter() - began
    row = row_of(question, spec, 0, answer)
    return Cost(
        method=spec,
        id=question.id,
        right=row.gen_acc,
        passages=row.documents,
        searches=row.searches,
        tokens_read=row.prompt_tokens,
        tokens_written=row.completion_tokens,
        seconds=seconds,
        processor_s=processor_s(in_sessions(leaders)) - before,
    )


def means(costs: Sequence[Cost]) -> dict[str, float]:
    """Returns the number of the costs (at least one) and the mean of each figure."""
    rows = [asdict(cost) for cost in costs]
    figures = rows[0].keys() - {"method", "id"}
    return {"questions": len(rows), **{name: statistics.fmean(row[name] for row in rows) for name in sorted(figures)}}


def told(costs: Sequence[Cost]) -> dict[str, list[dict[str, Any]]]:
    """Returns the mean costs of each method, in METHODS' order, and those of s3 by the number of its searches."""
    by_method = {spec: [cost for cost in costs if cost.method == spec] for spec in METHODS}
    by_searches: dict[int, list[Cost]] = {}
    for cost in by_method["s3"]:
        by_searches.setdefault(cost.searches, []).append(cost)
    return {
        "methods": [{"method": spec, **means(some)} for spec, some in by_method.items() if some],
        "s3_by_searches": [means(some) for _, some in sorted(by_searches.items())],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=__doc__)
    parser.add_argument("work", type=Path, metavar="WORK", help="folder of the answers' costs and the services' logs")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="METHOD")
    parser.add_argument("--count", type=int, default=20, help="questions for each method (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3600, help="begins no question after them")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # unwinds, which stops the stack
    until = time.monotonic() + args.seconds
    asked = questions.pick(questions.load(load.QUESTIONS), args.count, 0)
    journal = Journal(args.work / "costs.jsonl", Cost)
    done = {(cost.method, cost.id) for cost in journal.found}
    left = [(spec, question) for spec in args.methods for question in asked if (spec, question.id) not in done]
    with Stack(free_port(), args.work) as stack, Client(stack.url) as client:
        leaders = {process.pid for process in stack.processes.values()}  # each service leads its own
        client.answer(question="Is anybody there?", method="s3")
        for spec, question in left:
            if time.monotonic() > until:
                break
            cost = ask(client, spec, question, leaders)
            journal.append(asdict(cost))
            journal.found.append(cost)
            print(json.dumps(asdict(cost)), flush=True)
    journal.close()
    args.out.write_text(json.dumps(told(journal.found), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
