"""Kills, freezes and cuts off each part of a Compose stack under load: `python -m bench.faults --out FILE`.

The environment names the project (COMPOSE_PROJECT_NAME, COMPOSE_FILE). One caller asks naive RAG, one s3 with one turn,
and one lists runs and retrieves. Each question was asked in peace before, and its answer must stay the same. Only a
stack of this machine may be asked.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import itertools
import json
import subprocess
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from bench import load
from bench.load import Outcome

PARTS = ("retriever", "generator", "redis", "gateway", "trainer", "prometheus")
FAULTS = ("kill", "freeze", "cut")
DEADLINE_S = 40.0
_PAUSE_S = 0.3  # after an error, so that a part that is down is not asked without end
# Not cached, so that every question needs the generator.
BODIES: dict[str, dict[str, Any]] = {
    "naive_rag": {"method": "naive_rag", "top_k": 1, "instructions": "Answer in a few words."},
    "s3": {"method": "s3", "max_turns": 1, "top_k": 3},
}
RETRIEVE = {"queries": ["Who designed the Warsaw Pact?"], "top_k": 1}


@dataclass(frozen=True)
class Asked:
    """A request, the question it asked (empty for others), and what became of it."""

    kind: str
    question: str
    outcome: Outcome

    @property
    def ended(self) -> float:
        return self.outcome.began + self.outcome.seconds


class Stack:
    """The project's containers."""

    def __init__(self) -> None:
        ids = {part: _docker("compose", "ps", "--quiet", part).strip() for part in PARTS}
        self._ids = ids
        self._networks = {
            part: json.loads(_docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", id))
            for part, id in ids.items()
        }

    def breaks(self, part: str, fault: str) -> None:
        match fault:
            case "kill":
                _docker("kill", self._ids[part])
            case "freeze":
                _docker("pause", self._ids[part])
            case "cut":
                for network in self._networks[part]:
                    _docker("network", "disconnect", network, self._ids[part])

    def mends(self, part: str, fault: str) -> None:
        match fault:
            case "kill":
                _docker("start", self._ids[part])
            case "freeze":
                _docker("unpause", self._ids[part])
            case "cut":
                for network in self._networks[part]:
                    _docker("network", "connect", "--alias", part, network, self._ids[part])


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


class Callers:
    """Three callers, each with one request at a time, who remember what became of it."""

    def __init__(self, http: httpx.AsyncClient, questions: Sequence[str]) -> None:
        self._http, self._questions = http, questions
        self.asked: list[Asked] = []

    async def peace(self) -> dict[tuple[str, str], Any]:
        """Returns the answer to each question, by method and question."""
        answers = {}
        for method, question in itertools.product(BODIES, self._questions):
            while not (found := await self._ask(method, question)).outcome.answered:
                print(f"in peace: {found.outcome.said}", flush=True)
            answers[method, question] = told(found.outcome.body)
        return answers

    async def run(self) -> None:
        """Asks until it is cancelled."""
        async with asyncio.TaskGroup() as callers:
            for method in BODIES:
                asked = map(partial(self._ask, method), itertools.cycle(self._questions))
                callers.create_task(self._one_after_the_other(asked))
            callers.create_task(self._one_after_the_other(map(self._other, itertools.count())))

    async def _one_after_the_other(self, requests: Iterable[Awaitable[Asked]]) -> None:
        for request in requests:
            found = await request
            self.asked.append(found)
            wait = found.outcome.retry_after_s or _PAUSE_S
            await asyncio.sleep(0.01 if found.outcome.answered and found.question else min(wait, 10))

    async def _ask(self, method: str, question: str) -> Asked:
        body = {"question": question, **BODIES[method]}
        return Asked(method, question, await load.send(self._http, "/v1/answer", body, DEADLINE_S))

    async def _other(self, number: int) -> Asked:
        if number % 2:
            return Asked("runs", "", await load.send(self._http, "/v1/runs", timeout_s=DEADLINE_S))
        return Asked("retrieve", "", await load.send(self._http, "/v1/retrieve", RETRIEVE, DEADLINE_S))


def told(body: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what must be the same each time: the answer and the ids of the passages."""
    return body["answer"], [document["id"] for document in body["documents"]]


async def one(stack: Stack, callers: Callers, part: str, fault: str, lasts_s: float, peace: Mapping[Any, Any]) -> dict:
    """Returns what became of the requests around one fault."""
    callers.asked.clear()
    asking = asyncio.create_task(callers.run())
    await asyncio.sleep(4)
    broken = time.monotonic()
    await asyncio.to_thread(stack.breaks, part, fault)
    await asyncio.sleep(lasts_s)
    await asyncio.to_thread(stack.mends, part, fault)
    mended = time.monotonic()
    until = mended + DEADLINE_S + 20
    while time.monotonic() < until and None in (found := recovered(callers.asked, mended)).values():  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    await asyncio.sleep(3)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return {"part": part, "fault": fault} | figures(callers.asked, broken, mended, peace, found)


def recovered(asked: Sequence[Asked], mended: float) -> dict[str, float | None]:
    """Returns by kind of request how many seconds after the mending one was answered again."""
    found: dict[str, float | None] = {}
    for kind in (*BODIES, "retrieve", "runs"):
        ended = [each.ended for each in asked if each.kind == kind and each.outcome.answered]
        found[kind] = min((round(at - mended, 2) for at in ended if at >= mended), default=None)
    return found


def figures(
    asked: Sequence[Asked], broken: float, mended: float, peace: Mapping[Any, Any], found: Mapping[str, float | None]
) -> dict[str, Any]:
    answered = [each for each in asked if each.outcome.answered]
    failed = [each for each in asked if not each.outcome.answered]
    silent = [each for each in failed if each.outcome.status == load.NO_RESPONSE]
    asked_questions = [each for each in answered if each.question]
    wrong = [each for each in asked_questions if told(each.outcome.body) != peace[each.kind, each.question]]
    during = [each for each in answered if each.question and broken <= each.outcome.began < mended]
    return {
        "sent": len(asked),
        "answered": len(answered),
        "answered_of_those_sent_during": len(during),
        "errors": dict(collections.Counter(f"{each.kind}: {each.outcome.said}" for each in failed).most_common()),
        "untyped": sum(not each.outcome.typed for each in failed),
        "no_response": len(silent),
        "wrong": len(wrong),
        "wrong_answers": [
            [each.kind, each.question, told(each.outcome.body), peace[each.kind, each.question]] for each in wrong[:3]
        ],
        "longest_s": round(max(each.outcome.seconds for each in asked), 2),
        "deadline_s": DEADLINE_S,
        "answered_again_s": found,
        "back_s": min((at for kind, at in found.items() if kind in BODIES and at is not None), default=None),
    }


async def run(args: argparse.Namespace) -> dict[str, Any]:
    stack = Stack()
    rows = []
    async with load.client(args.url) as http:
        callers = Callers(http, load.questions(args.seed)[: args.questions])
        peace = await callers.peace()
        print(f"{len(peace)} answers in peace", flush=True)
        for part, fault in itertools.product(args.parts, args.faults):
            row = await one(stack, callers, part, fault, args.lasts, peace)
            rows.append(row)
            print(json.dumps(row), flush=True)
    total = {name: sum(row[name] for row in rows) for name in ("sent", "answered", "untyped", "wrong", "no_response")}
    backs = [row["back_s"] for row in rows]
    return {
        "total": total | {"longest_s": max(row["longest_s"] for row in rows), "deadline_s": DEADLINE_S},
        "slowest_back_s": None if None in backs else max(backs),
        "lasts_s": args.lasts,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--faults", nargs="*", default=FAULTS, choices=FAULTS)
    parser.add_argument("--lasts", type=float, default=15, help="seconds that a fault lasts")
    parser.add_argument("--questions", type=int, default=6)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    args.out.write_text(json.dumps(asyncio.run(run(args)), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
