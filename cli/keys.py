"""`search-agent keys …`: makes, lists and revokes API keys in the gateway's own store."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cli.arguments import days, natural
from cli.problems import alone
from cli.terminal import one_line
from common.problems import Problem
from search_agent.errors import KeysError

_TIMEOUT_S = 5.0
_LIMITS = {
    "requests_per_minute": "requests a minute",
    "questions_at_once": "questions worked on at once",
    "tokens_per_day": "tokens a day, of searcher and generator together",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search-agent keys`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("name", help="whose key it is, for the list")
    create.add_argument(
        "--scope", action="append", required=True, help="ask, index, evaluate, train or admin; may be repeated"
    )
    create.add_argument("--index", action="append", default=[], help="an index it may use; default: every index")
    create.add_argument("--days", type=days, help="days until it expires; default: never")
    for name, what in _LIMITS.items():
        flag = f"--{name.replace('_', '-')}"
        create.add_argument(flag, type=natural, help=f"{what}; 0: no limit; default: the gateway's setting")
    create.set_defaults(run=_create)
    commands.add_parser("list", help="show the keys, oldest first").set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("id", help="as the list shows it")
    revoke.set_defaults(run=_revoke)
    for command in commands.choices.values():
        command.add_argument(
            "--store", help="the file, or the Redis as redis://…; default: as GATEWAY_KEYS and GATEWAY_REDIS_URL say"
        )


def _create(args: argparse.Namespace) -> int:
    from common import keys

    try:
        scopes = [keys.Scope(scope) for scope in args.scope]
    except ValueError:
        raise Problem(f"--scope: must be one of {', '.join(keys.Scope)}") from None
    limits = keys.Limits(**{name: getattr(args, name) for name in _LIMITS})
    lifetime = timedelta(days=args.days) if args.days else None
    key, secret = keys.make(args.name, scopes, args.index, lifetime, limits)
    _in_store(args, lambda store: store.add(key))
    print(secret)
    return 0


def _list(args: argparse.Namespace) -> int:
    found = _in_store(args, lambda store: store.all())
    for key in found:
        ends = f"expires {key.expires_at:%Y-%m-%d}" if key.expires_at else "never expires"
        if key.expires_at and key.expires_at <= datetime.now(UTC):
            ends = "expired"
        limits = [f"{n} {_LIMITS[name]}" for name in _LIMITS if (n := getattr(key.limits, name)) is not None]
        print(
            f"{key.id}  {one_line(key.name):<20} {','.join(key.scopes):<12} "
            f"indexes: {one_line(', '.join(key.indexes)) or 'all'}; "
            f"{'; '.join([f'made {key.created_at:%Y-%m-%d}', ends, *limits])}"
        )
    if not found:
        print("there are no keys")
    return 0


def _revoke(args: argparse.Namespace) -> int:
    if not _in_store(args, lambda store: store.remove(args.id)):
        raise Problem(f"{args.id}: no such key")
    print(f"{args.id} revoked")
    return 0


def _in_store(args: argparse.Namespace, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Returns what `work` returns for the store of keys."""
    from common.keys import open_store
    from common.settings import load
    from services.gateway.settings import KeySettings

    where = args.store or load(KeySettings, []).key_store()
    if not where:
        raise Problem("where are the keys? Set GATEWAY_KEYS, or give --store FILE or --store redis://HOST:PORT/DB")

    async def opened() -> Any:
        store = open_store(where, _TIMEOUT_S)
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(opened())
    except KeysError as error:
        place = "" if "://" in where else f"{where}: "  # a URL may hold a password
        raise Problem(f"{place}{error}") from None


if __name__ == "__main__":
    sys.exit(alone("keys", add_arguments))
