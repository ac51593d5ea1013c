"""Draws the learning curves of training runs: `python -m bench.curve RUN… --out FOLDER`.

Writes curve.json, with every step as WatchRun reports it, and curve.png: training and validation accuracy beside naive
RAG's, entropy, and the seconds of a step by phase.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.trainer.watch import MetricsLog

_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
)  # Okabe and Ito's palette, which is safe for colour-blind readers
_FAINT = "#dddddd"
_PHASES = ("gen", "old_log_prob", "update_actor", "update_weights", "save_checkpoint")

Steps = Mapping[int, Mapping[str, float]]


def read(run: Path) -> Steps:
    log = MetricsLog(run / "metrics.jsonl")
    log.new()
    return {number: step.metrics for number, step in sorted(log.steps.items())}


def series(steps: Steps, name: str) -> tuple[list[int], list[float]]:
    found = [(number, metrics[name]) for number, metrics in steps.items() if name in metrics]
    return [number for number, _ in found], [value for _, value in found]


def draw(runs: Mapping[str, Steps], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (accuracy, entropy, seconds) = pyplot.subplots(3, 1, figsize=(8, 9), layout="constrained")
    for colour, (name, steps) in zip(_COLOURS, runs.items(), strict=False):
        for what, style, label in (
            ("reward/accuracy", {"alpha": 0.4}, "training"),
            ("validation/accuracy", {"marker": "o"}, "validation"),
            ("validation/rag_accuracy", {"linestyle": "--"}, "naive RAG, validation"),
        ):
            at, values = series(steps, what)
            accuracy.plot(at, [100 * value for value in values], color=colour, label=f"{name}: {label}", **style)
        entropy.plot(*series(steps, "policy/entropy"), color=colour, label=name)
    accuracy.set_ylabel("GenAcc, %")
    entropy.set_ylabel("entropy")
    means = {
        name: [
            statistics.median(values) if (values := series(steps, f"seconds/{phase}")[1]) else 0.0 for phase in _PHASES
        ]
        for name, steps in runs.items()
    }
    left = [0.0] * len(runs)
    for number, phase in enumerate(_PHASES):
        widths = [means[name][number] for name in runs]
        seconds.barh(list(runs), widths, left=left, height=0.5, label=phase, color=[*_COLOURS, "#999999"][number])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    seconds.set_xlabel("seconds, median of a step")
    for axis in (accuracy, entropy):
        axis.set_xlabel("step")
        axis.grid(color=_FAINT)
    for axis in (accuracy, entropy, seconds):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
        axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.curve", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="FOLDER")
    args = parser.parse_args(argv)
    runs = {run.name: read(run) for run in args.runs}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "curve.json").write_text(json.dumps(runs, indent=1) + "\n")
    draw(runs, args.out / "curve.png")
    print(f"{args.out / 'curve.png'}: {', '.join(f'{name} {len(steps)} steps' for name, steps in runs.items())}")


if __name__ == "__main__":
    main()
