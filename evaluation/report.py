"""Reports of a run: report.json and report.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.files import write_whole
from evaluation.rows import RECALL_AT, Row, Summary, summarise
from evaluation.run import Outcome
from search_agent.grading.statistics import Comparison, Estimate, compare

BASELINE = "naive_rag"
Variant = tuple[str, int]  # method and passage budget


class Figures:
    """Summaries by method and budget, and comparisons of each method with the baseline of the same budget."""

    def __init__(self, rows: Sequence[Row], seed: int, price: tuple[float, float] | None) -> None:
        by_variant: dict[Variant, list[Row]] = {}
        for row in rows:
            by_variant.setdefault((row.method, row.budget), []).append(row)
        self.summaries: dict[Variant, Summary] = {
            variant: summarise(rows, seed, price) for variant, rows in by_variant.items()
        }
        self.comparisons: dict[Variant, Comparison] = {
            (method, budget): found
            for (method, budget), rows in by_variant.items()
            if method != BASELINE and (found := compare(rows, by_variant.get((BASELINE, budget), []), seed))
        }

    def of_budget(self, budget: int) -> dict[str, Summary]:
        """Returns the summaries of a budget by method, best first."""
        found = {method: summary for (method, own), summary in self.summaries.items() if own == budget}
        return dict(sorted(found.items(), key=lambda item: -item[1].gen_acc.mean))

    def records(self) -> list[dict[str, Any]]:
        """Returns the figures as plain values, one record per method and budget."""
        return [
            {
                "method": method,
                "budget": budget or None,
                **asdict(summary),
                "against_naive_rag": asdict(found) if (found := self.comparisons.get((method, budget))) else None,
            }
            for (method, budget), summary in self.summaries.items()
        ]


class Report(Figures):
    """The figures of all rows, and of each group of questions. `groups` is by group name, then by value."""

    def __init__(self, outcome: Outcome, seed: int, price: tuple[float, float] | None) -> None:
        asked = list(outcome.facts["parameters"])  # rows lie in order of arrival
        rows = sorted(outcome.rows, key=lambda row: (row.budget, asked.index(row.method)))
        super().__init__(rows, seed, price)
        self.facts: dict[str, Any] = {**outcome.facts, "seed": seed, "price": price}
        self.failures = outcome.failures
        divided: dict[str, dict[str, list[Row]]] = {}
        for row in rows:
            for name, value in row.groups.items():
                divided.setdefault(name, {}).setdefault(value, []).append(row)
        self.groups: dict[str, dict[str, Figures]] = {
            name: {value: Figures(values[value], seed, price) for value in sorted(values)}
            for name, values in sorted(divided.items())
            if len(values) > 1
        }

    @property
    def budgets(self) -> list[int]:
        return sorted({budget for _, budget in self.summaries})

    def failed(self, method: str, budget: int) -> int:
        return sum(count for (m, b, _), count in self.failures.items() if (m, b) == (method, budget))

    def write(self, folder: Path, plots: Sequence[str]) -> None:
        """Writes report.json, and report.md with links to the plots in the same folder."""
        results = [
            record | {"failed": self.failed(record["method"], record["budget"] or 0)} for record in self.records()
        ]
        groups = [
            {"group": name, "value": value, **record}
            for name, values in self.groups.items()
            for value, figures in values.items()
            for record in figures.records()
        ]
        failures = [
            {"method": method, "budget": budget or None, "what": what, "count": count}
            for (method, budget, what), count in self.failures.items()
        ]
        document = {"run": self.facts, "results": results, "groups": groups, "failures": failures}
        write_whole(folder / "report.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        write_whole(folder / "report.md", "\n".join(self._markdown(plots)) + "\n")

    def _markdown(self, plots: Sequence[str]) -> list[str]:
        index, judge, price = self.facts["index"], self.facts["judge"], self.facts["price"]
        lines = [
            "# Evaluation",
            "",
            f"- Questions: {self.facts['asked']} of {self.facts['questions']}",
            f"- Index: {index['name']} {index['version']}, encoder {index['encoder'] or 'none'}",
            f"- Models: {', '.join(sorted({m for s in self.summaries.values() for m in s.models}))}",
            f"- Scoring: {self.facts['scoring']}",
            f"- Judge: {judge['model'] + ' at ' + judge['url'] if judge else 'none; GenAcc is the span match alone'}",
        ]
        if price:
            lines.append(f"- Price: {price[0]} a million prompt tokens, {price[1]} a million completion tokens")
        for budget in self.budgets:
            title = f"At most {budget} passages for the generator" if budget else "Each method in its own setting"
            lines += ["", f"## {title}", "", *self._answers(budget), "", *self._search(budget)]
            for name in self.groups:
                lines += ["", f"### By {name}", "", *self._by_group(name, budget)]
        lines += [f"\n![{Path(name).stem.replace('-', ' ')}]({name})" for name in plots]
        if self.failures:
            lines += ["", "## Failures", "", "Counted here and in no score. The same command asks them again.", ""]
            lines += [
                f"- {method}{f' at {budget}' if budget else ''}: {count} × {what}"
                for (method, budget, what), count in self.failures.most_common()
            ]
        return [*lines, "", *_NOTES]

    def _answers(self, budget: int) -> list[str]:
        rows = []
        for method, summary in self.of_budget(budget).items():
            against = self.comparisons.get((method, budget))
            rows.append(
                {
                    "method": method,
                    "n": str(summary.count),
                    "failed": str(self.failed(method, budget)),
                    "GenAcc": interval(summary.gen_acc),
                    "EM": interval(summary.exact_match),
                    "F1": interval(summary.f1),
                    "beyond naive RAG": interval(against.difference, signed=True) if against else "",
                    "won : lost": f"{against.wins} : {against.losses}" if against else "",
                    "p": f"{against.p:.2g}" if against else "",
                }
            )
        return table(rows)

    def _search(self, budget: int) -> list[str]:
        summaries = self.of_budget(budget)
        most = max(summary.documents for summary in summaries.values())
        ks = [k for k, before in zip(RECALL_AT, (0, *RECALL_AT), strict=False) if before < most or k == 1]
        rows = []
        for method, summary in summaries.items():
            recall = {each.k: each for each in summary.recall}
            row = {"method": method, "gold seen": _percent(summary.gold_seen)}
            row |= {f"gold @{k}": _percent(recall[k].gold) for k in ks}
            row |= {"gold kept": _percent(summary.gold_kept), "coverage": _percent(summary.coverage)}
            row |= {f"answer @{k}": _percent(recall[k].answer) for k in ks}
            row |= {
                "passages": f"{summary.documents:.1f}",
                "searches": f"{summary.searches:.1f}",
                "tokens": f"{summary.tokens:,.0f}",
                "cost": "" if summary.cost is None else f"{summary.cost:.2g}",
                "p50 s": _seconds(summary.p50_ms),
                "p95 s": _seconds(summary.p95_ms),
                "malformed": str(summary.malformed),
                "cut": str(summary.truncated or ""),
            }
            rows.append(row)
        return table(rows)

    def _by_group(self, name: str, budget: int) -> list[str]:
        rows = []
        for value, figures in self.groups[name].items():
            for method, summary in figures.of_budget(budget).items():
                against = figures.comparisons.get((method, budget))
                rows.append(
                    {
                        name: value,
                        "method": method,
                        "n": str(summary.count),
                        "GenAcc": interval(summary.gen_acc),
                        "beyond naive RAG": interval(against.difference, signed=True) if against else "",
                        "gold seen": _percent(summary.gold_seen),
                        "gold kept": _percent(summary.gold_kept),
                        "coverage": _percent(summary.coverage),
                        "searches": f"{summary.searches:.1f}",
                    }
                )
        return table(rows)


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the lines of a Markdown table without its empty columns, and no lines for no rows."""
    if not rows:
        return []
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    cells = [columns, *([row[name] for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    rule = "|" + "|".join(("-" * (w + 1) + ":") if i else "-" * (w + 2) for i, w in enumerate(widths)) + "|"
    return [lines[0], rule, *lines[1:]]


def interval(estimate: Estimate, signed: bool = False) -> str:
    """Formats a share in percent: "41.2 [38.1, 44.5]"."""
    sign = "+" if signed else ""
    return f"{100 * estimate.mean:{sign}.1f} [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _seconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1e3:.2f}"


_NOTES = (
    "## How to read it",
    "",
    "Scores are percentages with 95 % bootstrap intervals over the questions. GenAcc counts an answer as right if a",
    "gold answer stands in it (for multiple choice: if it names the right option) or if the judge accepts it. *Beyond",
    "naive RAG* compares the questions that both answered: the difference, how many only one of the two got right,",
    "and p of the exact sign test. *Gold seen*: the turns together retrieved all gold passages. *Gold @k*, *answer",
    "@k*: all gold passages, or a gold answer, are among the first k passages that the generator read. *Gold kept*:",
    "it read all gold passages; *coverage*: the mean share of them that it read. Tokens count what searcher and",
    "generator read and wrote. Times are the gateway's, without answers from its cache. *Cut* counts questions for",
    "which a model's context had no room for all of the passages. A passage budget keeps the first passages of those",
    "that a method chose, so a method that searches in turns loses more. In the plots, points that would cover each",
    "other are moved sideways.",
)
