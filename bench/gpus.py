"""Compares numbers of GPUs: `python -m bench.gpus WORK --out FILE`, as `bench/on_gpu.sh WORK gpus` does at its end.

WORK has what its parts measured: logs/gpus-PART-COUNT.json, and the runs gpus-PART-COUNT. Each part that was
measured becomes {count: figures}. `times` is the rate over that of one GPU, `efficiency` is `times` over the count;
`gpu_minutes` is the time of a step times the count.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import recorded
from common import run_config

COMMAND = "bench/on_gpu.sh WORK gpus"
COUNTS = (1, 2, 4, 8)  # that bench/on_gpu.sh chooses from
MOST = 64  # GPUs of one machine
_AGENTS = ("questions_per_s", "p50_s", "gpu_percent", "calls", "tokens_read", "tokens_written", "at_once", "processes")
_OF_A_STEP = {
    "rollouts_s": "timing_s/gen",
    "reference_s": "timing_s/ref",
    "values_s": "timing_s/values",
    "critic_s": "timing_s/update_critic",
    "update_s": "timing_s/update_actor",
    "weights_s": "timing_s/update_weights",
    "tokens": "perf/total_num_tokens",
    "searches": "search/searches",
}
HEAD = ("part", "GPUs", "rate", "", "times", "efficiency")
Figures = dict[str, Any]


def _played(result: Mapping[str, Any]) -> Figures:
    return {name: result[name] for name in _AGENTS if name in result}


def _vectors(result: Mapping[str, Any]) -> Figures:
    """Returns milliseconds by number of queries; the rate is that of the most queries."""
    rows = {row["queries"]: row for row in result["rows"]}
    most = max(rows)
    return {
        "vectors": rows[most]["vectors"],
        "exact": all(row["exact"] for row in rows.values()),
        "ms": {str(queries): row["ours_ms"] for queries, row in rows.items()},
        "queries_per_s": most / rows[most]["ours_ms"] * 1e3,
    }


def training(steps: Sequence[Mapping[str, float]], samples: int, warm_up: int) -> Figures:
    """Returns medians of the steps after the first `warm_up`; none if there are no such steps.

    `steps` are verl's metrics by name, `samples` the trajectories of a step.
    """
    measured = [step for step in steps if "timing_s/step" in step][warm_up:]
    if not measured:
        return {}

    def median(name: str) -> float:
        return statistics.median(step[name] for step in measured)

    seconds = median("timing_s/step")
    return {
        "steps": len(measured),
        "step_s": seconds,
        **{name: median(metric) for name, metric in _OF_A_STEP.items() if all(metric in step for step in measured)},
        "trajectories_per_h": samples / seconds * 3600,
    }


def _run(folder: Path, count: int, warm_up: int) -> Figures:
    log = folder / "metrics.jsonl"
    if not log.exists():
        return {}
    config = run_config.load(str(folder / "config.yaml"))
    steps = [json.loads(line)["data"] for line in log.read_text(encoding="utf-8").splitlines()]
    figures = training(steps, config.questions_a_step * int(config.verl["actor_rollout_ref.rollout.n"]), warm_up)
    return figures | {"gpu_minutes": figures["step_s"] * count / 60} if figures else {}


PARTS: dict[str, tuple[Callable[[Mapping[str, Any]], Figures], str]] = {  # how a part's file is read, and its rate
    "engines": (_played, "questions_per_s"),
    "copies": (_played, "questions_per_s"),
    "tensor-parallel": (_played, "questions_per_s"),
    "tensor-parallel-alone": (_played, "questions_per_s"),
    "vectors": (_vectors, "queries_per_s"),
    "layout": (dict, "questions_per_s"),
}
# First steps, which compile kernels and do not count.
RUNS = {"training": 2, "training-graphs": 2, "training-7b": 2, "paper": 1}
RATES = {part: rate for part, (_, rate) in PARTS.items()} | dict.fromkeys(RUNS, "trajectories_per_h")


def compared(figures: Mapping[int, Figures], rate: str) -> dict[str, Figures]:
    """Returns the figures by count with `times` and `efficiency`, which are None if one GPU was not measured."""
    one = figures.get(1, {}).get(rate)

    def over_one(count: int, rate: float) -> Figures:
        times = rate / one if one else None
        return {"times": times, "efficiency": times / count if times else None}

    return {str(count): found | over_one(count, found[rate]) for count, found in sorted(figures.items())}


def read(work: Path) -> dict[str, dict[str, Figures]]:
    """Returns all parts that were measured."""
    found: dict[str, dict[int, Figures]] = {}
    for count in range(1, MOST + 1):
        for part, (figures, _) in PARTS.items():
            file = work / f"logs/gpus-{part}-{count}.json"
            if file.exists():
                found.setdefault(part, {})[count] = figures(json.loads(file.read_text(encoding="utf-8")))
        for part, warm_up in RUNS.items():
            if run := _run(work / f"gpus-{part}-{count}", count, warm_up):
                found.setdefault(part, {})[count] = run
    return {part: compared(counts, RATES[part]) for part, counts in found.items()}


def whole(parts: Mapping[str, Mapping[str, Figures]]) -> dict[str, dict[str, Figures | None] | None]:
    """Returns every part and number of GPUs that a goal may name, None for what was not measured."""
    counts = dict.fromkeys(map(str, COUNTS))
    return {part: {**counts, **parts[part]} if part in parts else None for part in RATES}


def rows(parts: Mapping[str, Mapping[str, Figures | None] | None]) -> list[tuple[str, ...]]:
    """Returns what was measured as rows, in HEAD's columns."""
    shown = []
    for part, counts in parts.items():
        for count, found in (counts or {}).items():
            if found:
                unit = RATES[part].replace("_per_", "/").replace("_", " ")
                ratios = ("" if found[name] is None else f"{found[name]:.2f}" for name in ("times", "efficiency"))
                shown.append((part, count, f"{found[RATES[part]]:,.1f}", unit, *ratios))
    return shown


def table(parts: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """Returns the rates as a table in Markdown."""
    rule = ("---", "---:", "---:", "---", "---:", "---:")
    return [f"| {' | '.join(row)} |" for row in (HEAD, rule, *rows(parts))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.gpus", description=__doc__)
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    parts = read(args.work)
    recorded.write(args.out, recorded.device(), COMMAND, whole(parts))
    print("\n".join(table(parts)))


if __name__ == "__main__":
    main()
