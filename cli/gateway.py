"""The gateway as commands call it: its address is --url, and the key comes from the environment."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cli.arguments import web_address
from common.secret import secret

if TYPE_CHECKING:
    from search_agent_client import Client

_KEY = "SEARCH_AGENT_API_KEY"


def add_url(parser: argparse.ArgumentParser) -> None:
    """Adds --url, the gateway's address."""
    parser.add_argument(
        "--url",
        type=web_address,
        default="http://127.0.0.1:8080",
        help=f"the gateway (default: %(default)s); its key, if it asks for one, is in {_KEY}, or in a file that "
        f"{_KEY}_FILE names",
    )


def client(args: argparse.Namespace) -> Client:
    """Returns a client of the gateway at --url. Raises Problem for a key that cannot be used."""
    from search_agent_client import Client  # here, so that the command line answers --help at once

    return Client(args.url, api_key())


def api_key() -> str:
    """Returns the key, empty if none is set. Raises Problem for one that cannot be used."""
    return secret(_KEY)
