"""Accuracy against what it cost: searches, and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from services.evaluate.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# distinguishable with every kind of colour vision (Okabe and Ito)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vPX*"
_INK, _FAINT = "#222222", "#d9d9d9"


def draw(report: Report, folder: Path) -> list[str]:
    """Writes the plots and returns their names; ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = []
    for name, label in (("searches", "searches per question"), ("tokens", "tokens per question")):
        width = 6.2 * len(report.budgets)
        figure, axes = pyplot.subplots(
            1, len(report.budgets), figsize=(max(7.0, width), 4.6), sharex=True, sharey=True, squeeze=False
        )
        for axis, budget in zip(axes[0], report.budgets, strict=True):
            _panel(axis, report, budget, name, label)
        axes[0][0].set_ylabel("GenAcc, %", color=_INK)
        index = report.facts["index"]["name"]
        figure.suptitle(f"Accuracy against {name}, {report.facts['asked']} questions, index {index}", color=_INK)
        figure.tight_layout()
        names.append(f"accuracy-{name}.png")
        figure.savefig(folder / names[-1], dpi=150)
        pyplot.close(figure)
    return names


def _panel(axis: Axes, report: Report, budget: int, name: str, label: str) -> None:
    order = sorted({method for method, _ in report.summaries})  # a method looks the same in every plot
    places = []
    for method, summary in report.of_budget(budget).items():
        number = order.index(method)
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        x, accuracy = getattr(summary, name), summary.gen_acc
        below, above = accuracy.mean - accuracy.low, accuracy.high - accuracy.mean
        axis.errorbar(
            x, 100 * accuracy.mean, yerr=[[100 * below], [100 * above]],
            fmt=marker, color=colour, markersize=9, elinewidth=1.6, capsize=4,
            label=f"{method}  {100 * accuracy.mean:.1f}",
        )  # fmt: skip
        places.append(x)
    axis.set_title(f"at most {budget} passages" if budget else "own settings", fontsize=10, color=_INK)
    axis.set_xlabel(label, color=_INK)
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=min(0, *places, 0), right=None)
    axis.margins(x=0.12)
    axis.grid(axis="y", color=_FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="best")
