"""`search-agent index list`, `info` and `rollback`: the indexes in folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to those of `search-agent index`."""
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


_ROLLBACK = """Replaces the index in a folder, such as ./indexes/mine, with one of its kept versions; running services
pick it up. `index info` shows the versions."""


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
    return show(folder, verify_checksums=False)


def _info(args: argparse.Namespace) -> int:
    from services.retriever.sources.config import SOURCE

    if (args.path / SOURCE).is_file():
        return show_source(args.path)
    return show(args.path, verify_checksums=True)


def show(folder: Path, verify_checksums: bool) -> int:
    """Shows the index in a folder. Raises IndexRefused."""
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


def show_source(folder: Path) -> int:
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
