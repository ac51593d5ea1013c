"""`search-agent universe`: a corpus and question sets from worlds of PhantomWiki."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.arguments import natural

_COUNTS = {1: 10, 2: 45, 3: 45}  # questions of a world by the number of passages that they need


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("worlds", type=Path, nargs="+", metavar="DIR", help="PhantomWiki's output, a folder per world")
    parser.add_argument(
        "--dev", type=natural, default=2, metavar="N", help="worlds for the dev set (default: %(default)s)"
    )
    parser.add_argument(
        "--test", type=natural, default=4, metavar="N", help="worlds for the test set (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the questions (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for corpus.jsonl.gz and qa_*.jsonl.gz"
    )
    parser.set_defaults(run=_universe)


def _universe(args: argparse.Namespace) -> int:
    import json

    from evaluation.errors import EvaluateProblem
    from evaluation.question_records import line_of
    from learning import universe

    names = [folder.name for folder in args.worlds]
    if len(set(names)) < len(names):
        raise EvaluateProblem("two worlds have folders of the same name")
    if len(names) <= args.dev + args.test:
        raise EvaluateProblem(f"{len(names)} worlds leave none to train on beside {args.dev} and {args.test}")
    worlds = universe.without_namesakes({each.name: universe.read_world(each) for each in args.worlds})
    args.out.mkdir(parents=True, exist_ok=True)
    passages = [passage for name, world in worlds.items() for passage in universe.passages(name, world)]
    records = ({"id": each.id, "title": each.title, "text": each.text} for each in passages)
    _write(args.out / "corpus.jsonl.gz", [json.dumps(record, ensure_ascii=False) for record in records])
    parts = {
        "train": names[: len(names) - args.dev - args.test],
        "dev": names[len(names) - args.dev - args.test : len(names) - args.test],
        "test": names[len(names) - args.test :],
    }
    for part, chosen in parts.items():
        asked = [each for name in chosen for each in universe.questions(name, worlds[name], _COUNTS, args.seed)]
        _write(args.out / f"qa_{part}.jsonl.gz", [line_of(each) for each in asked])
        print(f"{part}: {len(chosen)} worlds, {len(asked):,} questions")
    print(f"{args.out}: {len(passages):,} passages")
    return 0


def _write(path: Path, lines: list[str]) -> None:
    """Writes the same bytes for the same lines."""
    import gzip

    from common.files import draft_of

    with draft_of(path) as draft:
        draft.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
