"""`search-agent headroom`: how much reinforcement could gain over the current searcher."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cli.arguments import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="NAME|FILE", help="configuration of the planned run: agent, services and reward"
    )
    parser.add_argument(
        "--searcher", required=True, metavar="HOST:PORT", help="generator service that holds the searcher"
    )
    parser.add_argument(
        "--questions", required=True, metavar="SET", help="question set, as for `search-agent evaluate`"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="ask N of them, chosen by the seed")
    parser.add_argument("--samples", type=positive, default=16, help="episodes per question (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="temperature of the samples (default: %(default)s)"
    )
    parser.add_argument("--retriever", metavar="HOST:PORT", help="default: the configuration's")
    parser.add_argument("--generator", metavar="HOST:PORT", help="default: the configuration's")
    parser.add_argument("--concurrency", type=positive, default=16, help="episodes at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of questions (default: %(default)s)")
    parser.add_argument("--mixed", type=Path, metavar="FILE", help="write the questions whose samples differ in reward")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of samples and results; a measurement that was stopped there resumes",
    )
    parser.set_defaults(run=_headroom)


def _headroom(args: argparse.Namespace) -> int:
    import asyncio
    import json
    from dataclasses import asdict

    from tqdm import tqdm

    from cli import runs
    from common.backends import GrpcPolicy
    from common.files import check_writable, write_whole
    from evaluation import questions
    from evaluation.errors import EvaluateProblem
    from evaluation.question_records import line_of
    from evaluation.report import table
    from learning import headroom, wiring

    if args.mixed:
        check_writable(args.mixed)
    run = runs.load(args.config, retriever=args.retriever, generator=args.generator)
    try:
        run.method.with_params({"temperature": args.temperature})
    except ValueError as error:
        raise EvaluateProblem(f"--{error}") from None
    everything = questions.load(args.questions)
    asked = questions.pick(everything, args.limit, args.seed)
    source = questions.name_of(args.questions, everything)
    plan = headroom.Plan(source, asked, args.samples, args.temperature, args.concurrency, args.out)

    async def measure() -> headroom.Outcome:
        searcher = GrpcPolicy(args.searcher, run.generator_timeout_s, run.patience_s)
        with tqdm(total=len(asked) * (args.samples + 1), unit="episode") as bar:
            return await headroom.measure(
                plan, run, wiring.world_of(run), searcher, lambda failed: bar.update() and None
            )

    outcome = asyncio.run(measure())
    for reason, count in outcome.failures.most_common(3):
        print(f"search-agent: failed episodes: {count}, {reason}; the same command repeats them", file=sys.stderr)
    if not outcome.samples:
        raise EvaluateProblem("no question has all of its samples")
    whole = headroom.head_room(list(outcome.samples.values()))
    divided = headroom.by_group(asked, outcome.samples)
    lacking = whole.lacking(run.stop)
    print("\n".join(table(headroom.rows(whole, divided))))
    print(f"\nno head room: {lacking}" if lacking else "\nhead room: it breaks no stop rule of the run")
    document = {
        "run": outcome.facts,
        "samples": args.samples,
        "incomplete": len(asked) - len(outcome.samples),
        "lacking": lacking,
        "all": asdict(whole),
        "groups": {name: {value: asdict(found) for value, found in of.items()} for name, of in divided.items()},
    }
    write_whole(args.out / "headroom.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if args.mixed:
        mixed = [found for found in asked if headroom.is_mixed(outcome.samples.get(found.id, ()))]
        write_whole(args.mixed, "".join(f"{line_of(found)}\n" for found in mixed))
    return 1 if outcome.failures else 0
