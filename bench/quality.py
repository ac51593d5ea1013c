"""Asks dev questions of a running gateway by every method and scores the answers: python -m bench.quality"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from search_agent.scoring import f1, span_match

METHODS = ("s3", "naive_rag", "direct")
DEMO = Path(__file__).parent.parent / "data" / "demo"


def questions(count: int, seed: int) -> list[dict[str, Any]]:
    with gzip.open(DEMO / "qa_dev.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return random.Random(seed).sample(rows, count)


def ask(client: httpx.Client, method: str, row: dict[str, Any]) -> dict[str, Any]:
    """One row of results. A failed request stays a failure: it has an error and no scores."""
    began = time.perf_counter()
    response = client.post("/v1/answer", json={"question": row["question"], "method": method})
    result: dict[str, Any] = {"id": row["id"], "method": method, "seconds": time.perf_counter() - began}
    if response.status_code != 200:
        return result | {"error": response.json()["detail"]}
    body, golds = response.json(), row["golden_answers"]
    kept = [document["id"] for document in body["documents"]]
    gold_passage = row["metadata"]["passage_id"]
    return result | {
        "answer": body["answer"],
        "golds": golds,
        "gen_acc": span_match(body["answer"], golds),
        "f1": f1(body["answer"], golds),
        "gold_kept": float(gold_passage in kept),
        "gold_seen": float(any(gold_passage in turn["retrieved"] for turn in body["turns"])),
        "passages": len(kept),
        "searches": body["usage"]["searches"],
        "tokens": body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"],
        "malformed": sum(bool(turn["error"]) for turn in body["turns"]),
        "stop_reason": body["stop_reason"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    columns = ("gen_acc", "f1", "gold_seen", "gold_kept", "passages", "searches", "tokens", "seconds", "malformed")
    lines = ["| method | n | failed | " + " | ".join(columns) + " |", "|---" * (len(columns) + 3) + "|"]
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        scored = [row for row in mine if "error" not in row]
        cells = [method, str(len(scored)), str(len(mine) - len(scored))]
        for column in columns:
            values = [row[column] for row in scored]
            if column == "malformed":
                cells.append(str(sum(values)))
            elif column in ("gen_acc", "f1", "gold_seen", "gold_kept"):
                cells.append(f"{100 * statistics.mean(values):.1f}" if values else "")
            else:
                cells.append(f"{statistics.mean(values):.1f}" if values else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the rows here as JSON")
    args = parser.parse_args()
    asked = [(method, row) for method in METHODS for row in questions(args.questions, args.seed)]
    with httpx.Client(base_url=args.url, timeout=300) as client, ThreadPoolExecutor(args.concurrency) as pool:
        index = client.get("/v1/indexes").json()[0]
        rows = list(tqdm(pool.map(lambda pair: ask(client, *pair), asked), total=len(asked), unit="question"))
    print(table(rows))
    if args.out:
        facts = {
            "command": " ".join(["python -m bench.quality", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "device": f"{platform.machine()} CPU",
            "index": {key: index[key] for key in ("name", "version", "encoder")},
            "seed": args.seed,
        }
        args.out.write_text(json.dumps(facts | {"rows": rows}, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
