"""Measures how much a reader gains if the right passage is chosen: `python -m bench.head_room --out FILE`.

For each question the same generator reads nothing, the first passages of a ranking, each of the first 8 alone, and the
gold passage alone and among others. `span_match` decides which answers are right.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from common.backends import GrpcGenerator, GrpcRetriever
from common.pool import each
from evaluation import questions as question_sets
from search_agent.episode import answer_prompt
from search_agent.grading.answers import span_match
from search_agent.types import Message, Passage, Question, Retrieval, Sampling

_DEPTH = 20


async def rows_of(
    question: Question, retriever: GrpcRetriever, generator: GrpcGenerator, tokens: int
) -> dict[str, float]:
    """Scores each way to read, 1.0 or 0.0. The gold passage is read only where it is among the first 20."""
    (ranking,) = await retriever.search([question.text], Retrieval(_DEPTH))

    async def right(passages: Sequence[Passage]) -> float:
        messages = [Message("user", answer_prompt("answer", question.text, passages))]
        written = await generator.write(messages, Sampling(max_tokens=tokens))
        return span_match(written.text, question.golds)

    eight = ranking[:8]
    single = [await right([passage]) for passage in eight]
    holding = next((n for n, passage in enumerate(eight) if span_match(passage.text, question.golds)), 0)
    found = {
        "nothing": await right([]),
        "top 1": single[0],
        "top 3": await right(ranking[:3]),
        "top 8": await right(eight),
        "first of 8 that holds the answer, else top 1": single[holding],
        "best single passage of 8": max(single),
        "gold passage is first": float(ranking[0].id in question.gold_ids),
        "gold passage among 8": float(any(passage.id in question.gold_ids for passage in eight)),
    }
    gold = next((passage for passage in ranking if passage.id in question.gold_ids), None)
    if gold:
        others = [passage for passage in ranking if passage != gold]
        found["gold passage (where found)"] = await right([gold])
        found["gold passage among three (where found)"] = await right([others[0], gold, others[1]])
    return found


async def measure(args: argparse.Namespace) -> dict[str, float]:
    from tqdm import tqdm

    retriever, generator = GrpcRetriever(args.retriever, timeout_s=60), GrpcGenerator(args.generator, timeout_s=60)
    asked = question_sets.pick(question_sets.load(args.questions), args.limit, args.seed)
    found: list[dict[str, float]] = []
    with tqdm(total=len(asked), unit="question") as bar:

        async def work(question: Question) -> None:
            found.append(await rows_of(question, retriever, generator, args.tokens))
            bar.update()

        await each(asked, work, args.concurrency)
    await retriever.close()
    await generator.close()
    names = dict.fromkeys(name for row in found for name in row)
    shares = {name: statistics.fmean(row[name] for row in found if name in row) for name in names}
    return {"questions": len(found)} | {name: round(100 * share, 1) for name, share in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.head_room", description=__doc__)
    parser.add_argument("--questions", default="data/demo/qa_dev.jsonl.gz", metavar="SET")
    parser.add_argument("--limit", type=int, default=1500, help="questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the questions, as in `search-agent evaluate`")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=128, help="questions at once (default: %(default)s)")
    parser.add_argument("--retriever", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--generator", default="127.0.0.1:50053", metavar="HOST:PORT")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    args.out.write_text(json.dumps(asyncio.run(measure(args)), indent=1) + "\n")


if __name__ == "__main__":
    main()
