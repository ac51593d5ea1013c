"""Plots of accuracy against its cost in searches and in tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.files import draft_of
from evaluation.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# distinguishable with every kind of colour vision (Okabe and Ito)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vPX"  # one fewer than colours, so that the pairs begin again after 56 methods only
_INK, _FAINT = "#222222", "#dddddd"
_APART = 0.022  # of an axis's width: intervals closer than this would cover each other


def draw(report: Report, folder: Path) -> list[str]:
    """Writes the plots into the folder and returns their names. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = []
    panels = len(report.budgets)
    for name in ("searches", "tokens"):
        figure, axes = pyplot.subplots(
            panels, 1, figsize=(8, 1.0 + 3.4 * panels), sharex=True, sharey=True, squeeze=False, layout="constrained"
        )
        for (axis,), budget in zip(axes, report.budgets, strict=True):
            _panel(axis, report, budget, name)
        axes[-1][0].set_xlabel(f"{name} per question", color=_INK)
        questions, index = report.facts["asked"], report.facts["index"]["name"]
        figure.suptitle(
            f"Accuracy against {name}: {questions:,} questions, index {index}", color=_INK, x=0.01, ha="left"
        )
        names.append(f"accuracy-{name}.png")
        with draft_of(folder / names[-1]) as draft:
            figure.savefig(draft, dpi=150, format="png")
        pyplot.close(figure)
    return names


def _panel(axis: Axes, report: Report, budget: int, name: str) -> None:
    """Draws one budget: a point per method, with the interval of its accuracy."""
    order = sorted({method for method, _ in report.summaries})  # a method looks the same in every plot
    summaries = report.of_budget(budget)
    most = max(getattr(summary, name) for summary in report.summaries.values()) or 1.0
    places = _spread({method: getattr(summary, name) for method, summary in summaries.items()}, most * _APART)
    for method, summary in summaries.items():
        number = order.index(method)
        low, mean, high = (100 * value for value in (summary.gen_acc.low, summary.gen_acc.mean, summary.gen_acc.high))
        axis.errorbar(
            places[method], mean, yerr=[[mean - low], [high - mean]], fmt=_MARKERS[number % len(_MARKERS)],
            color=_COLOURS[number % len(_COLOURS)], markersize=8, elinewidth=1.5, capsize=3,
            label=f"{method}  {mean:.1f}",
        )  # fmt: skip
    title = f"At most {budget} passages" if budget else "Each method in its own setting"
    axis.set_title(title, fontsize=10, color=_INK, loc="left")
    axis.set_ylabel("GenAcc, %", color=_INK)
    axis.set_ylim(0, min(105, 105 * max(summary.gen_acc.high for summary in report.summaries.values()) + 1))
    axis.set_xlim(-0.05 * most, 1.08 * most)
    axis.xaxis.set_major_formatter("{x:,.0f}" if most > 10 else "{x:g}")
    axis.grid(color=_FAINT, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.02), title="GenAcc, mean and 95 %",
                title_fontsize=8)  # fmt: skip


def _spread(places: dict[str, float], apart: float) -> dict[str, float]:
    """Returns the positions, moved sideways where they are closer than `apart`. A group keeps its centre."""
    groups: list[list[str]] = []
    for method in sorted(places, key=lambda each: places[each]):
        if groups and places[method] - places[groups[-1][-1]] < apart:
            groups[-1].append(method)
        else:
            groups.append([method])
    moved = {}
    for group in groups:
        middle = sum(places[method] for method in group) / len(group)
        for number, method in enumerate(group):
            moved[method] = middle + (number - (len(group) - 1) / 2) * apart
    return moved
