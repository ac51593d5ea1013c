"""`search-agent cache …`: shows and clears the gateway's naive-RAG cache."""

from __future__ import annotations

import argparse

from cli import gateway


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search-agent cache`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("stats", help="count results by index version").set_defaults(run=_stats)
    clear = commands.add_parser("clear", help="remove the results of an index, including precomputed ones")
    clear.add_argument("--index", required=True)
    which = clear.add_mutually_exclusive_group(required=True)
    which.add_argument("--version", default="", help="remove those of this version of the index")
    which.add_argument("--all", action="store_true", help="remove those of every version")
    clear.set_defaults(run=_clear)
    for command in commands.choices.values():
        gateway.add_url(command)


def _stats(args: argparse.Namespace) -> int:
    with gateway.client(args) as client:
        cache = client.cache()
    for entry in cache.indexes:
        served = "served" if entry.current else "no longer served"
        print(f"{entry.index:<20} {entry.version}  {entry.results:>9,} results  {entry.scored:>9,} scored  {served}")
    if not cache.indexes:
        print("the cache is empty")
    print("look-ups since the gateway started:", ", ".join(f"{n:,} {what}" for what, n in cache.lookups.items()) or 0)
    return 0


def _clear(args: argparse.Namespace) -> int:
    with gateway.client(args) as client:
        print(f"{client.clear_cache(args.index, args.version).removed:,} results removed")
    return 0
