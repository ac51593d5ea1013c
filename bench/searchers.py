"""Compares searchers with naive RAG, from the rows of `on_gpu.sh compare`: `python -m bench.searchers WORK`.

Writes searchers.json and searchers.md. Each searcher is paired with naive RAG of the same retrieval and of as many
passages as it keeps on average, and with the best naive row.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common import journal
from evaluation.report import interval, table
from evaluation.rows import Row, summarise
from search_agent.grading.statistics import Comparison, compare


def retrieval_of(method: str) -> set[str]:
    """Returns the retrieval parts of a method such as "s3:mode=hybrid, warm": here {"mode=hybrid"}."""
    return {part for part in method.split(",")[0].split(":") if part.startswith(("mode=", "rerank="))}


def against(found: Comparison | None) -> str:
    return f"{interval(found.difference, signed=True)}, {found.wins} : {found.losses}" if found else ""


def report(work: Path, seed: int) -> tuple[list[str], dict[str, object]]:
    """Returns the report as Markdown lines and as data."""
    methods: dict[str, list[Row]] = {}
    for row in journal.read(work / "compare-naive" / "rows.jsonl", Row):
        methods.setdefault(row.method, []).append(row)
    naive = dict(methods)
    for folder in sorted(work.glob("compare-*")):
        if folder.name != "compare-naive":
            for row in journal.read(folder / "rows.jsonl", Row):
                methods.setdefault(f"{row.method}, {folder.name.removeprefix('compare-')}", []).append(row)
    figures = {method: summarise(rows, seed) for method, rows in methods.items()}
    best = max(naive, key=lambda method: figures[method].gen_acc.mean)
    cells, data = [], []
    for method, summary in figures.items():
        same = [name for name in naive if retrieval_of(name) == retrieval_of(method)]
        alike = min(same, key=lambda name: abs(figures[name].documents - summary.documents))
        found = {
            "same": compare(methods[method], naive[alike], seed),
            "best": compare(methods[method], naive[best], seed),
        }
        if method in naive:
            found = {"same": None, "best": None}
        gold = next(each.gold for each in summary.recall if each.k == 10)
        cells.append(
            {
                "method": method,
                "n": str(summary.count),
                "GenAcc": interval(summary.gen_acc),
                "beyond naive RAG of its size, won : lost": against(found["same"]),
                f"beyond {best}": against(found["best"]),
                "gold read": f"{100 * (gold or 0):.1f}",
                "passages": f"{summary.documents:.2f}",
                "searches": f"{summary.searches:.1f}",
                "tokens": f"{summary.tokens:,.0f}",
                "malformed": str(summary.malformed),
            }
        )
        compared = {name: asdict(each) if each else None for name, each in found.items()}
        data.append({"method": method, **asdict(summary), "against": compared | {"size": alike, "best_naive": best}})
    return table(cells), {"seed": seed, "methods": data}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.searchers", description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: WORK")
    args = parser.parse_args(argv)
    lines, data = report(args.work, args.seed)
    out = args.out or args.work
    (out / "searchers.md").write_text("\n".join(lines) + "\n")
    (out / "searchers.json").write_text(json.dumps(data, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
