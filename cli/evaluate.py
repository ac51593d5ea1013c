"""`search-agent evaluate` and `search-agent precompute`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cli.arguments import add_filter, merged, positive, seconds, web_address
from cli.gateway import add_url, api_key
from search_agent.grading.answers import Scoring

if TYPE_CHECKING:
    from tqdm import tqdm

    from evaluation.endpoints import Endpoints
    from evaluation.report import Report

T = TypeVar("T")
R = TypeVar("R")

_QUESTIONS = """a set by name (nq, triviaqa, popqa, hotpotqa, 2wikimultihopqa, musique, bamboogle, NAME/train), JSON
lines {"id", "question", "golden_answers"}, or MIRAGE's benchmark.json, benchmark.json#NAME for one of its sets"""


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search-agent evaluate`."""
    _common(parser)
    parser.add_argument(
        "--methods",
        default="s3,naive_rag,direct",
        help="comma-separated methods, with parameters as in naive_rag:mode=bm25:top_k=8 (default: %(default)s)",
    )
    parser.add_argument(
        "--budget",
        type=positive,
        default=0,
        metavar="K",
        help="passages that the generator reads at most, the same for every method",
    )
    add_filter(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of rows and report; a run that was stopped there resumes",
    )
    parser.add_argument(
        "--price",
        type=float,
        nargs=2,
        metavar=("PROMPT", "COMPLETION"),
        help="prices of a million tokens, for the cost",
    )
    parser.set_defaults(run=_evaluate)


def add_precompute(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search-agent precompute`."""
    _common(parser)
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/0", metavar="URL", help="the gateway's Redis")
    parser.add_argument("--top-k", type=positive, metavar="K", help="passages of naive RAG (default: the gateway's)")
    parser.add_argument(
        "--failed", type=Path, metavar="FILE", help="write the questions that naive RAG gets wrong, as JSON lines"
    )
    parser.add_argument("--load", type=Path, metavar="FILE", help="first copy the results in a Parquet file into Redis")
    parser.add_argument("--save", type=Path, metavar="FILE", help="finally write all scored results as Parquet")
    parser.set_defaults(run=_precompute)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", required=True, metavar="SET", help=_QUESTIONS)
    parser.add_argument("--limit", type=positive, metavar="N", help="ask N of them, chosen by the seed")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the sampling and the intervals (default: %(default)s)"
    )
    parser.add_argument("--index", default="", help="index to search (default: the retriever's default index)")
    add_url(parser)
    parser.add_argument("--concurrency", type=positive, default=4, help="questions at once (default: %(default)s)")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="ask from the nodes of a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, local"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=300, metavar="S", help="seconds for one question (default: %(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=seconds,
        default=600,
        metavar="S",
        help="seconds for which a question is retried while the gateway is busy or unreachable (default: %(default)s)",
    )
    parser.add_argument(
        "--scoring", choices=[*Scoring], default=Scoring.UNICODE, help="scoring rules (default: %(default)s)"
    )
    parser.add_argument(
        "--judge-url", type=web_address, metavar="URL", help="base of an OpenAI-compatible API, with /v1"
    )
    parser.add_argument(
        "--judge-model", default="", help="model of the judge; JUDGE_API_KEY holds its key, if it needs one"
    )


def _evaluate(args: argparse.Namespace) -> int:
    import asyncio

    from tqdm import tqdm

    from evaluation import questions, report, run

    everything = questions.load(args.questions)
    plan = run.Plan(
        source=questions.name_of(args.questions, everything),
        questions=questions.pick(everything, args.limit, args.seed),
        methods=tuple(dict.fromkeys(args.methods.split(","))),
        out=args.out,
        budget=args.budget,
        index=args.index,
        filter=merged(args.filter),
        concurrency=args.concurrency,
    )

    endpoints = _endpoints(args)

    async def ask() -> run.Outcome:
        async with endpoints.open() as (gateway, grader), _placed(partial(run.asking, endpoints), args) as asker:
            with tqdm(total=len(plan.questions) * len(plan.methods), unit="answer") as bar:
                return await run.run(plan, gateway, grader.facts, asker, _advance(bar))

    outcome = asyncio.run(ask())
    if outcome.rows:
        made = report.Report(outcome, args.seed, tuple(args.price) if args.price else None)
        made.write(args.out, _plots(made, args.out))
        print((args.out / "report.md").read_text(encoding="utf-8").partition("\n## How to read it")[0])
        print(f"{args.out / 'report.md'}")
    for (method, _, what), count in outcome.failures.most_common():
        print(f"search-agent: failed answers of {method}: {count}, {what}", file=sys.stderr)
    if outcome.failures:
        details = args.out / "failures.jsonl"
        print(f"search-agent: {details} has the details; the same command asks them again", file=sys.stderr)
    return 1 if outcome.failures else 0


def _precompute(args: argparse.Namespace) -> int:
    import asyncio

    from tqdm import tqdm

    from common.files import check_writable, write_whole
    from evaluation import precompute, questions, scored_file
    from evaluation.question_records import line_of

    for path in filter(None, (args.failed, args.save)):
        check_writable(path)
    if args.save or args.load:
        scored_file.check()
    asked = questions.pick(questions.load(args.questions), args.limit, args.seed)
    parameters = {name: value for name in ("index", "top_k") if (value := getattr(args, name))}

    endpoints = _endpoints(args)
    scoring = partial(precompute.scoring, endpoints, args.redis, parameters)

    async def fill() -> precompute.Outcome:
        async with precompute.storing(args.redis) as store:
            if args.load:
                print(f"{args.load}: {await scored_file.load(store, args.load):,} results put into Redis")
            async with endpoints.open() as (gateway, _), _placed(scoring, args) as scorer:
                with tqdm(total=len(asked), unit="question") as bar:
                    outcome = await precompute.precompute(
                        asked, gateway, store, scorer, args.concurrency, _advance(bar), args.index
                    )
            if args.save:
                print(f"{args.save}: {await scored_file.save(store, args.save, args.index):,} results saved")
            return outcome

    outcome = asyncio.run(fill())
    failed = sum(outcome.failures.values())
    if args.failed:
        write_whole(args.failed, "".join(f"{line_of(each)}\n" for each in outcome.wrong))
    print(
        f"{outcome.right + len(outcome.wrong):,} questions scored, {outcome.known:,} of them before; "
        f"naive RAG gets {outcome.right:,} right and {len(outcome.wrong):,} wrong"
    )
    for what, count in outcome.failures.most_common():
        print(f"search-agent: {count} questions failed, {what}; the same command asks them again", file=sys.stderr)
    return 1 if failed else 0


def _endpoints(args: argparse.Namespace) -> Endpoints:
    from common.settings import judge_key
    from evaluation.endpoints import Endpoints
    from evaluation.errors import EvaluateProblem

    if bool(args.judge_url) != bool(args.judge_model):
        raise EvaluateProblem("--judge-url and --judge-model go together")
    judge = (args.judge_url or "", args.judge_model, judge_key())
    return Endpoints(args.url, args.timeout, api_key(), *judge, Scoring(args.scoring), args.patience)


def _placed(
    opening: Callable[[], AbstractAsyncContextManager[Callable[[T], Awaitable[R]]]], args: argparse.Namespace
) -> AbstractAsyncContextManager[Callable[[T], Awaitable[R]]]:
    """Opens what does the work, here or in the actors of a Ray cluster."""
    if not args.ray:
        return opening()
    from evaluation import on_ray

    return on_ray.actors(args.ray, opening, args.concurrency)


def _advance(bar: tqdm[object]) -> Callable[[bool], None]:
    """Returns a function that advances the bar and shows the failures beside it."""
    failed = 0

    def advance(failure: bool) -> None:
        nonlocal failed
        failed += failure
        if failure:
            bar.set_postfix(failed=failed, refresh=False)
        bar.update()

    return advance


def _plots(report: Report, folder: Path) -> list[str]:
    from evaluation import plots

    try:
        return plots.draw(report, folder)
    except ImportError:
        print("search-agent: no plots without matplotlib: pip install search-agent[evaluate]", file=sys.stderr)
        return []
