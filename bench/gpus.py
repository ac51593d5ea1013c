"""Compares numbers of GPUs: `python -m bench.gpus WORK --out FILE`, as `bench/on_gpu.sh WORK gpus` does at its end.

WORK has what its parts measured: logs/gpus-PART-COUNT.json, and the runs gpus-PART-COUNT. Each part that was
measured becomes {count: figures}. `times` is the rate over that of one GPU, `efficiency` is `times` over the count.
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
WARM_UP_STEPS = 2  # compile kernels, capture graphs
_AGENTS = ("questions_per_s", "p50_s", "gpu_percent", "calls", "tokens_read", "tokens_written", "at_once", "processes")
_PHASES = {"rollouts_s": "timing_s/gen", "update_s": "timing_s/update_actor", "weights_s": "timing_s/update_weights"}
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


def training(steps: Sequence[Mapping[str, float]], samples: int) -> Figures:
    """Returns medians of the steps after the first two; none if there are no such steps.

    `steps` are verl's metrics by name, `samples` the trajectories of a step.
    """
    measured = [step for step in steps if "timing_s/step" in step][WARM_UP_STEPS:]
    if not measured:
        return {}

    def median(name: str) -> float:
        return statistics.median(step[name] for step in measured)

    seconds = median("timing_s/step")
    return {
        "steps": len(measured),
        "step_s": seconds,
        **{name: median(metric) for name, metric in _PHASES.items() if all(metric in step for step in measured)},
        "trajectories_per_h": samples / seconds * 3600,
    }


def _run(folder: Path) -> Figures:
    config = run_config.load(str(folder / "config.yaml"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["data"] for line in lines]
    return training(steps, config.questions_a_step * int(config.verl["actor_rollout_ref.rollout.n"]))


PARTS: dict[str, tuple[Callable[[Mapping[str, Any]], Figures], str]] = {  # how a part's file is read, and its rate
    "engines": (_played, "questions_per_s"),
    "tensor-parallel": (_played, "questions_per_s"),
    "tensor-parallel-alone": (_played, "questions_per_s"),
    "vectors": (_vectors, "queries_per_s"),
    "layout": (dict, "questions_per_s"),
}
RUNS = ("training", "paper")
RATES = {part: rate for part, (_, rate) in PARTS.items()} | dict.fromkeys(RUNS, "trajectories_per_h")


def compared(figures: Mapping[int, Figures], rate: str) -> dict[str, Figures]:
    """Returns the figures by count, with `times` and `efficiency` where one GPU was measured too."""
    one = figures.get(1, {}).get(rate)
    return {
        str(count): found | ({"times": found[rate] / one, "efficiency": found[rate] / one / count} if one else {})
        for count, found in sorted(figures.items())
    }


def read(work: Path) -> dict[str, dict[str, Figures]]:
    """Returns all parts that were measured."""
    found: dict[str, dict[int, Figures]] = {}
    for part, (figures, _) in PARTS.items():
        for file in work.glob(f"logs/gpus-{part}-[0-9]*.json"):
            found.setdefault(part, {})[_count(file)] = figures(json.loads(file.read_text(encoding="utf-8")))
    for part in RUNS:
        for file in work.glob(f"gpus-{part}-[0-9]*/metrics.jsonl"):
            if run := _run(file.parent):
                found.setdefault(part, {})[_count(file.parent)] = run
    return {part: compared(counts, RATES[part]) for part, counts in found.items()}


def _count(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def table(parts: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """Returns the rates as a table in Markdown."""
    lines = ["| part | GPUs | rate | | times | efficiency |", "| --- | ---: | ---: | --- | ---: | ---: |"]
    for part, counts in parts.items():
        for count, found in counts.items():
            compared = [f"{found[name]:.2f}" if name in found else "" for name in ("times", "efficiency")]
            unit = RATES[part].replace("_per_", "/").replace("_", " ")
            lines.append(f"| {part} | {count} | {found[RATES[part]]:,.1f} | {unit} | {' | '.join(compared)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.gpus", description=__doc__)
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    parts = read(args.work)
    recorded.write(args.out, recorded.device(), COMMAND, dict.fromkeys(RATES) | parts)
    print("\n".join(table(parts)))


if __name__ == "__main__":
    main()
