"""Compares bm25s with Lucene on the same questions: recall of the gold passage, and agreement of the rankings.

Runs in the image with Lucene (deploy/README.md). Each row after the second makes bm25s one step more like Lucene, so
that the overlap shows what each difference is worth. Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import bm25s
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from common.corpus import read_corpus
from services.retriever.bm25 import LUCENE, Bm25
from services.retriever.passages import embedded_text

Search = Callable[[str, int], list[int]]


@cache
def _stem(name: str) -> Callable[[str], str]:
    word: Callable[[str], str] = Stemmer.Stemmer(name).stemWord
    return word


@dataclass(frozen=True)
class Words:
    """How bm25s splits, stems and weighs words."""

    label: str
    k1: float = 1.5
    b: float = 0.75
    stemmer: str = "english"  # Snowball's second English stemmer
    stopwords: frozenset[str] = frozenset(STOPWORDS_EN)  # the same 33 as Lucene's
    pattern: str = r"(?u)\b\w\w+\b"
    possessive: bool = True  # "Faust's" gives "faust" and "s", and "s" is too short to keep

    def split(self, text: str) -> list[str]:
        stem = _stem(self.stemmer)
        text = text.lower() if self.possessive else re.sub(r"['’]s\b", "", text.lower())
        return [stem(word) for word in re.findall(self.pattern, text) if word not in self.stopwords]


def bm25s_search(words: Words, texts: list[str]) -> Search:
    numbers: dict[str, int] = {}
    tokens = [[numbers.setdefault(word, len(numbers)) for word in words.split(text)] for text in texts]
    index = bm25s.BM25(k1=words.k1, b=words.b)
    index.index((tokens, numbers), show_progress=False)

    def search(question: str, k: int) -> list[int]:
        known = [numbers[word] for word in words.split(question) if word in numbers]
        if not known:
            return []
        scores = index.get_scores_from_ids(known)
        rows = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
        return [row for row in rows if scores[row] > 0]

    return search


def lucene_search(index: Bm25) -> Search:
    def search(question: str, k: int) -> list[int]:
        [ranking] = index.search([question], k)
        return [row for row, _ in ranking]

    return search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/demo/corpus.jsonl.gz"))
    parser.add_argument("--questions", type=Path, default=Path("data/demo/qa_dev.jsonl.gz"))
    parser.add_argument("--count", type=int, default=500, help="number of questions, evenly spaced in the file")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    args = parser.parse_args()

    passages = list(read_corpus(args.corpus))
    texts = [embedded_text(passage) for passage in passages]
    with gzip.open(args.questions, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rows = list(islice(rows, 0, None, max(1, len(rows) // args.count)))[: args.count]

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        LUCENE.build(texts, Path(folder))
        build_s = time.perf_counter() - started
        index = LUCENE.open(Path(folder), len(texts), {})
        reference = lucene_search(index)
        wanted = [reference(row["question"], 10) for row in rows]

        def compare(label: str, search: Search) -> dict[str, Any]:
            started = time.perf_counter()
            found = [search(row["question"], 10) for row in rows]
            seconds = time.perf_counter() - started
            gold = [row["metadata"]["passage_id"] for row in rows]
            hits = sum(
                name in {passages[row].id for row in ranked[:8]} for name, ranked in zip(gold, found, strict=True)
            )
            overlap = sum(len({*a} & {*b}) / max(1, len(a)) for a, b in zip(wanted, found, strict=True))
            first = sum(a[:1] == b[:1] for a, b in zip(wanted, found, strict=True))
            return {
                "label": label,
                "recall_at_8": hits / len(rows),
                "overlap_of_top_10": overlap / len(rows),
                "same_first": first / len(rows),
                "ms_a_query": seconds / len(rows) * 1e3,
            }

        results = [compare("Lucene: k1 0.9, b 0.4", reference)]
        steps = [Words("bm25s as served: k1 1.5, b 0.75")]
        changes: tuple[tuple[str, dict[str, Any]], ...] = (
            ("+ k1 0.9, b 0.4", {"k1": 0.9, "b": 0.4}),
            ("+ Porter's stemmer", {"stemmer": "porter"}),
            ("+ words of one letter, 's cut off", {"pattern": r"(?u)\b\w+\b", "possessive": False}),
        )
        for label, change in changes:
            steps.append(replace(steps[-1], label=label, **change))
        results += [compare(step.label, bm25s_search(step, texts)) for step in steps]
        index._searcher.set_bm25(1.5, 0.75)
        results.append(compare("Lucene: k1 1.5, b 0.75", reference))

    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.bm25", *sys.argv[1:]]),
        "versions": {name: version(name) for name in ("bm25s", "PyStemmer", "pyserini", "pyjnius")}
        | {"python": platform.python_version()},
        "passages": len(texts),
        "questions": len(rows),
        "lucene_build_s": build_s,
        "results": results,
    }
    print("| | recall@8 | overlap of top 10 with Lucene | same first | ms a query |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in results:
        figures = " | ".join(f"{row[name]:.3f}" for name in ("recall_at_8", "overlap_of_top_10", "same_first"))
        print(f"| {row['label']} | {figures} | {row['ms_a_query']:.1f} |")
    print(json.dumps(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
