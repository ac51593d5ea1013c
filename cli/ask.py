"""`search-agent ask`: asks a running gateway and shows the search as it goes."""

from __future__ import annotations

import argparse

from cli import gateway
from cli.plain import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search-agent ask`."""
    parser.add_argument("question")
    parser.add_argument("--method", help="one of GET /v1/methods (default: the gateway's, s3)")
    parser.add_argument("--index", help="default: the retriever's default index")
    gateway.add_url(parser)
    parser.set_defaults(run=ask)


def ask(args: argparse.Namespace) -> int:
    """Asks one question."""
    parameters = {"index": args.index} if args.index else {}
    with gateway.client(args) as client:
        show(client.stream_answer(args.question, args.method, **parameters))
    return 0
