"""`search-agent teach …`: examples for a warm start and for a reading adapter."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli import runs
from cli.arguments import natural, positive, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("reading", "searching", "protocol"))
    parser.add_argument(
        "--config",
        default="smollm2-demo",
        metavar="NAME|FILE",
        help="configuration of the planned run: questions, index and agent (default: %(default)s)",
    )
    parser.add_argument("--questions", metavar="SET", help="default: the configuration's")
    parser.add_argument(
        "--part",
        type=share,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="part of the articles, each from 0 to 1 (default: all)",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="FILE",
        help="corpus with the gold passages that are not retrieved; needed for episodes of several turns",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="keep the N most varied examples (default: all)")
    parser.add_argument(
        "--draws",
        type=natural,
        default=0,
        metavar="N",
        help="searching: episodes per question on blocks drawn from the ranking; 0: on the retrieved block (default)",
    )
    parser.add_argument(
        "--unknown",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="reading: share of the questions with an example that lacks a gold passage (default: all)",
    )
    parser.add_argument(
        "--poisoned",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="share of the passages without an answer that try to hijack the question (default: none)",
    )
    parser.add_argument("--retriever", metavar="HOST:PORT", help="default: the configuration's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.set_defaults(run=_teach)


def _teach(args: argparse.Namespace) -> int:
    import asyncio

    from common import run_services
    from common.files import check_writable
    from evaluation.questions import part
    from learning.data import everything, gold_in
    from learning.warm_start import teach
    from search_agent.types import ModelCard

    check_writable(args.out)
    run = runs.load(args.config, retriever=args.retriever, data__questions=args.questions)
    parameters = runs.s3_parameters(run)
    asked = part(everything(run), *args.part)
    gold = gold_in(args.corpus, asked) if args.corpus else {}
    plan = teach.Plan(args.what, parameters, gold, args.draws, args.unknown, args.seed, args.poisoned)

    async def lessons() -> list[teach.Lesson]:
        retriever = run_services.retriever_of(run)
        try:
            return await teach.lessons_of(asked, retriever, plan)
        finally:
            await retriever.close()

    made = asyncio.run(lessons())
    chosen = teach.varied(made, args.limit) if args.limit else made
    taught = run.card(tuple(args.part))
    teach.write(
        [lesson.spans for lesson in chosen], args.out, ModelCard(data=taught.data) if args.what == "reading" else taught
    )
    lacking = sum(not each.whole for each in chosen)
    print(f"{args.out}: {len(chosen):,} examples" + (f"; {lacking:,} of them miss a gold passage" if lacking else ""))
    return 0
