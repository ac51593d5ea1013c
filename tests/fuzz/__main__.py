"""Sends thousands of odd requests over REST and gRPC, half each: `python -m tests.fuzz --requests 10000 --out FILE`."""

from __future__ import annotations

import argparse
import collections
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.fuzz import calls, rest
from tests.fuzz.served import Stack, memory_mb, started

_ROUTES = 33


def grpc(stack: Stack, requests: int, seed: int) -> dict[str, Any]:
    """Returns the number of calls by status, and the methods that one was answered badly by."""
    codes: collections.Counter[str] = collections.Counter()
    failed = {}
    for method in calls.METHODS:
        try:
            codes += calls.fuzz(stack, method, requests // len(calls.METHODS), seed)
        except AssertionError as error:
            failed[method.full_name] = [str(error), *getattr(error, "__notes__", ())]
    return {"sent": codes.total(), "codes": dict(codes.most_common()), "failed": failed}


def http(stack: Stack, folder: Path, requests: int, seed: int) -> dict[str, Any]:
    """Returns the number of responses by status, and schemathesis' reports of runs that found something.

    It runs with one seed after the other, since it leaves out what it has sent in a run.
    """
    reports, statuses = [], rest.answered(stack)
    while (sent := sum(statuses.values())) < requests:
        examples = 1 + (requests - sent) // _ROUTES
        status, report = rest.fuzz(stack, folder, examples, timeout_s=3600, seed=seed + len(reports))
        reports.append(report if status else "")
        statuses = rest.answered(stack)
    return {"sent": sent, "statuses": statuses, "failed": [report for report in reports if report]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the requests")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work, started(Path(work)) as stack:
        memory = [memory_mb(stack.pid)]
        found: dict[str, Any] = {"grpc": grpc(stack, args.requests // 2, args.seed)}
        memory.append(memory_mb(stack.pid))
        found["rest"] = http(stack, Path(work), args.requests // 2, args.seed)
        memory.append(memory_mb(stack.pid))
    found |= {"rss_mb": memory, "seconds": round(time.monotonic() - began)}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return bool(found["grpc"]["failed"] or found["rest"]["failed"])


if __name__ == "__main__":
    raise SystemExit(main())
