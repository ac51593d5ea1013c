"""`search-agent ask`: asks a running gateway and shows the search as it goes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cli import gateway, plain
from cli.arguments import add_filter, merged

if TYPE_CHECKING:
    from search_agent_client import Answer, Found, Piece, Turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search-agent ask`."""
    parser.add_argument("question")
    parser.add_argument("--method", help="one of GET /v1/methods (default: the gateway's, s3)")
    parser.add_argument("--index", help="index to search (default: the retriever's default index)")
    add_filter(parser)
    parser.add_argument("--json", action="store_true", help="print each event as one line of JSON")
    gateway.add_url(parser)
    parser.set_defaults(run=ask)


def ask(args: argparse.Namespace) -> int:
    """Asks one question."""
    parameters: dict[str, Any] = {"index": args.index} if args.index else {}
    if args.filter:
        parameters["filter"] = merged(args.filter)
    with gateway.client(args) as client:
        events = client.stream_answer(args.question, args.method, **parameters)
        (plain.show_json if args.json else show)(events)
    return 0


def show(events: Iterable[Turn | Found | Piece | Answer]) -> Answer:
    """Shows a search as it happens: drawn if the terminal can do that, else as plain lines. Returns the last event."""
    if not _draws():
        return plain.show(events)
    from cli import live

    return live.show(events)


def _draws() -> bool:
    """Tells whether the output is a terminal that moves its cursor and has our characters, and rich is installed."""
    from importlib.util import find_spec

    simple = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
    return (
        sys.stdout.isatty() and not simple and sys.stdout.encoding.startswith("utf") and find_spec("rich") is not None
    )
