"""Asks s3 from more and more callers, who come again when they are told to: `python -m bench.overload --out FILE`.

Every question is new, so that nothing comes from the cache or is shared. A caller who is refused asks the same question
again after the time that the response gives. Only a stack of this machine may be asked.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench import load
from bench.load import Outcome, quantile

BODY = {"method": "s3", "max_turns": 1}
REFUSED = 503
_NEAR_S, _NEAR = 1.0, 0.25  # a promise is kept within a second or a quarter of the time


@dataclass(frozen=True)
class Promise:
    """The seconds after which a refused caller was told to come, and those after which the question was admitted."""

    told_s: float
    kept_s: float

    @property
    def is_kept(self) -> bool:
        return self.kept_s - self.told_s <= max(_NEAR_S, _NEAR * self.told_s)


class Level:
    """A number of callers at once."""

    def __init__(self, http: httpx.AsyncClient, questions: Iterator[str], seconds: float) -> None:
        self._http, self._questions, self._seconds = http, questions, seconds
        self.outcomes: list[Outcome] = []
        self.promises: list[Promise] = []

    async def run(self, callers: int) -> dict[str, Any]:
        """Returns what became of the callers' questions."""
        began = time.monotonic()
        await asyncio.gather(*(self._caller(began + self._seconds) for _ in range(callers)))
        took = time.monotonic() - began
        answered = [each.seconds for each in self.outcomes if each.answered]
        refused = [each for each in self.outcomes if each.status == REFUSED]
        others = collections.Counter(
            each.said for each in self.outcomes if not each.answered and each.status != REFUSED
        )
        return {
            "callers": callers,
            "seconds": round(took, 1),
            "answered": len(answered),
            "answered_per_s": round(len(answered) / took, 3),
            "p50_s": quantile(answered, 0.5),
            "p95_s": quantile(answered, 0.95),
            "refused": len(refused),
            "refused_after_p95_s": quantile([each.seconds for each in refused], 0.95),
            "refused_without_retry_after": sum(each.retry_after_s is None for each in refused),
            "promises": len(self.promises),
            "promises_kept": sum(promise.is_kept for promise in self.promises),
            "others": dict(others.most_common()),
        }

    async def _caller(self, until: float) -> None:
        while time.monotonic() < until:
            await self._question(next(self._questions), until)

    async def _question(self, question: str, until: float) -> None:
        """Asks until the question is no longer refused, or time is up."""
        told: tuple[float, float] | None = None  # when it was refused first, and the wait it was told then
        while True:
            outcome = await load.send(self._http, "/v1/answer", {"question": question, **BODY})
            self.outcomes.append(outcome)
            if outcome.status != REFUSED:
                if told:
                    self.promises.append(Promise(told[1], outcome.began - told[0]))
                return
            wait = outcome.retry_after_s or 1.0
            told = told or (outcome.began, wait)
            await asyncio.sleep(min(wait, max(0.0, until - time.monotonic())))
            if time.monotonic() >= until:
                return


async def run(url: str, levels: Sequence[int], seconds: float, seed: int) -> list[dict[str, Any]]:
    """Returns a row a level."""
    questions, rows = iter(load.questions(seed)), []
    async with load.client(url) as http:
        for callers in levels:
            rows.append(await Level(http, questions, seconds).run(callers))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--levels", default="1,2,4,8,16,32", help="callers at once, with commas in between")
    parser.add_argument("--seconds", type=float, default=60, help="for which each level sends new questions")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    rows = asyncio.run(run(args.url, [int(level) for level in args.levels.split(",")], args.seconds, args.seed))
    alone, most = rows[0], max(rows, key=lambda row: row["callers"])
    ratio = {"p95_over_alone": most["p95_s"] / alone["p50_s"]} if alone["p50_s"] and most["p95_s"] else {}
    args.out.write_text(json.dumps({"rows": rows, **ratio}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
