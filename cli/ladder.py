"""`search-agent index ladder`: measures the kinds of an index against each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.arguments import positive
from cli.terminal import say
from services.retriever.kinds import EXACT, KINDS


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to those of `search-agent index`."""
    ladder = commands.add_parser("ladder", help="measure every kind on an index's vectors or random ones")
    given = ladder.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "path", type=Path, nargs="?", help=f"folder of an index of a kind that keeps its vectors: {', '.join(EXACT)}"
    )
    given.add_argument("--random", type=positive, nargs=2, metavar=("N", "DIM"), help="N vectors of DIM numbers")
    ladder.add_argument("--queries", type=Path, metavar="FILE", help='JSON lines with a "question"; default: passages')
    ladder.add_argument("--count", type=positive, default=500, help="queries (default: 500)")
    ladder.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="default: all of them")
    ladder.add_argument("--top-k", type=positive, default=8, help="passages per search (default: 8)")
    ladder.add_argument(
        "--seconds", type=float, default=5.0, help="seconds to measure each speed, at most (default: 5)"
    )
    ladder.add_argument(
        "--gpus", type=positive, default=0, help="also measure each kind on this many GPUs (default: 0)"
    )
    ladder.add_argument(
        "--scratch", type=Path, metavar="DIR", help="folder for temporary indexes; default: the system's"
    )
    ladder.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements to a file")
    ladder.set_defaults(run=_ladder)


def _ladder(args: argparse.Namespace) -> int:
    import json
    import tempfile

    import numpy as np

    from common.files import write_whole
    from services.retriever import dense, ladder
    from services.retriever import manifest as manifests
    from services.retriever.encoders import encoder_of
    from services.retriever.errors import BuildRefused
    from services.retriever.gpu import torch_devices
    from services.retriever.rows import Rows

    rows: Rows
    for option, needed in (("--scratch", args.scratch), ("--json", args.json and args.json.parent)):
        if needed and not needed.is_dir():
            raise BuildRefused(f"{option}: there is no folder {needed}")
    if args.gpus:
        torch_devices(args.gpus)  # refuses now, not after the first build, if there are fewer
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        scratch = Path(folder)
        if args.random:
            if args.queries:
                raise BuildRefused("--queries needs an index: random vectors have no encoder")
            rows, queries = ladder.random_rows(args.random[0], args.random[1], args.count, scratch / "random.npy")
            about = "random, of 64 latent dimensions and noise, seed 0"
        else:
            manifest = manifests.read(args.path, verify_checksums=True)
            if not manifest.dim:
                raise BuildRefused(f"{args.path}: has no vectors")
            kind = KINDS[manifest.kind]
            rows = dense.exact_rows(args.path / manifest.vectors, kind, manifest.count, manifest.dim)
            if args.queries:
                queries = encoder_of(manifest).queries(ladder.read_questions(args.queries, args.count))
            else:
                chosen = np.linspace(0, manifest.count - 1, min(args.count, manifest.count)).astype(int)
                queries = np.concatenate([rows[row : row + 1] for row in chosen]).astype(np.float32)
            about = f"{manifest.name} {manifest.version}"

        rungs = ladder.measure(
            rows, queries, [KINDS[name] for name in args.kinds], scratch, args.top_k, args.seconds, say, args.gpus
        )
    if args.json:
        count, dim = rows.shape
        found = ladder.report(
            rungs, args.argv, vectors=about, count=count, dim=dim, queries=len(queries), top_k=args.top_k
        )
        write_whole(args.json, json.dumps(found, indent=2) + "\n")
    print(ladder.table(rungs, args.top_k))
    return 0
