"""`search-agent index push` and the others that change an index of a running gateway."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cli import gateway, stored_index
from cli.arguments import positive
from cli.terminal import one_line
from common.problems import Problem

if TYPE_CHECKING:
    from search_agent_client import Change, Client

_WAIT_S = 2.0  # between two looks at a build


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to those of `search-agent index`."""
    create = commands.add_parser("create", help="make an index without passages in a running retriever")
    create.add_argument("name")
    create.add_argument("--encoder", help="an encoder that the retriever knows; default: the default index's")
    create.add_argument("--no-dense", dest="encoder", action="store_const", const="", help="BM25 only")
    for field in ("kind", "bm25", "source", "licence"):
        create.add_argument(f"--{field}", help="as for `index build`")
    create.set_defaults(run=_create)

    push = commands.add_parser("push", help="add or replace passages of a running index", description=_PUSH)
    push.add_argument("name")
    push.add_argument("file", type=Path, help="JSON lines or a JSON array, plain or .gz")
    push.add_argument("--batch", type=positive, default=1000, help="passages per request (default: 1000)")
    push.add_argument("--no-wait", action="store_true", help="do not wait until they can be found")
    push.set_defaults(run=_push)

    remove = commands.add_parser("remove", help="remove passages of a running index")
    remove.add_argument("name")
    remove.add_argument("ids", nargs="+", metavar="ID")
    remove.add_argument("--no-wait", action="store_true", help="do not wait until they are gone")
    remove.set_defaults(run=_remove)

    versions = commands.add_parser("versions", help="list the versions of a running index, and its changes")
    versions.add_argument("name")
    versions.set_defaults(run=_versions)

    delete = commands.add_parser("delete", help="remove a running index with all its versions")
    delete.add_argument("name")
    delete.set_defaults(run=_delete)

    rollback = commands.choices["rollback"]  # which knows folders only, where the gateway's client is not installed
    rollback.add_argument_group(
        "running indexes", "the index may be the name of one, without a slash; `index versions` shows its versions"
    )
    rollback.set_defaults(run=_roll_back)

    for command in (create, push, remove, versions, rollback, delete):
        gateway.add_url(command)


_PUSH = """Reads objects as `index build` does, and {"id", "deleted": true}, which removes a passage. The whole file is
checked before anything is sent. Run the same command again after an interruption: what was accepted stays, and passages
that are there already change nothing."""


def _create(args: argparse.Namespace) -> int:
    with gateway.client(args) as client:
        made = client.create_index(args.name, args.encoder, args.kind, args.bm25, args.source, args.licence)
    print(f"{made.name}: made, {made.encoder or 'BM25 only'}")
    return 0


def _push(args: argparse.Namespace) -> int:
    total = sum(1 for _ in _edits(args.file))
    if not total:
        raise Problem(f"{args.file}: no passages")
    with gateway.client(args) as client, _progress() as progress:
        accepted = 0
        edits = _edits(args.file)
        while batch := [*islice(edits, args.batch)]:
            try:
                change = client.change_passages(args.name, batch)
            except Problem as problem:
                raise Problem(f"{accepted:,} of {total:,} passages were accepted: {problem}") from problem
            accepted += len(batch)
            progress.show("accepted", accepted, total)
        return _until_done(client, change, args.no_wait, progress)


def _remove(args: argparse.Namespace) -> int:
    from search_agent_client import Removal

    with gateway.client(args) as client, _progress() as progress:
        change = client.change_passages(args.name, map(Removal, args.ids))
        return _until_done(client, change, args.no_wait, progress)


def _until_done(client: Client, change: Change, no_wait: bool, progress: _Progress) -> int:
    """Follows a change to its end."""
    from search_agent_client import ChangeState

    while not no_wait and change.state in (ChangeState.WAITING, ChangeState.BUILDING):
        progress.show(change.phase or change.state, change.done, change.total)
        change = client.index_change(change.index, change.id, wait_s=_WAIT_S)
    progress.close()
    if change.state is ChangeState.FAILED:
        raise Problem(f"{change.index}: the change is kept, but its build failed: {one_line(change.error)}")
    at = f"version {change.version}" if change.version else f"change {change.id} is {change.state}"
    print(f"{change.index}: {at}")
    return 0


def _versions(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    with gateway.client(args) as client:
        index = client.index(args.name)
    for each in index.versions:
        built = f"{datetime.fromtimestamp(each.built, UTC):%Y-%m-%d %H:%M:%SZ}"
        serves = "  serves" * (each.version == index.version)
        print(f"{each.version:<18} {each.passages:>12,} passages  built {built}{serves}")
    if all(each.version != index.version for each in index.versions):
        note = "" if index.writable else "; the index is read-only"
        print(f"{index.version:<18} {index.passages:>12,} passages  serves{note}")
    for change in index.changes:
        counts = f"{change.upserts:,} added or replaced, {change.removals:,} removed"
        about = change.version or one_line(change.error)
        print(f"change {change.id:<11} {change.state:<9} {counts}  {about}".rstrip())
    return 0


def _roll_back(args: argparse.Namespace) -> int:
    if "/" in args.index:
        return stored_index.roll_back(args)
    with gateway.client(args) as client:
        index = client.index(args.index)
        kept = [each.version for each in index.versions if each.version != index.version]
        if not (version := args.version or next(iter(kept), "")):
            raise Problem(f"{args.index}: keeps no other version")
        index = client.rollback_index(args.index, version)
    print(f"{index.name}: version {index.version} serves, {index.passages:,} passages")
    return 0


def _delete(args: argparse.Namespace) -> int:
    with gateway.client(args) as client:
        print(f"{client.delete_index(args.name).name}: removed")
    return 0


def _edits(file: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the records of a file as they are sent. Raises Problem for one that is not an edit, with file and line."""
    from common import records
    from common.passages import BadPassage, read_edit

    try:
        for line, record in records.read(file):
            try:
                read_edit(record)
            except BadPassage as error:
                raise Problem(f"{file}:{line}: {error}") from None
            yield json.loads(record)
    except records.BrokenFile as error:
        raise Problem(f"{file}:{error.line}: {error}") from None


class _Progress(Protocol):
    def show(self, what: str, done: int, total: int) -> None: ...

    def close(self) -> None: ...


@contextmanager
def _progress() -> Iterator[_Progress]:
    """Yields a bar for a terminal, and lines elsewhere."""
    progress = _bar() if sys.stderr.isatty() else _Lines()
    try:
        yield progress
    finally:
        progress.close()


class _Lines:
    """Prints a line for each tenth of each stage."""

    def __init__(self) -> None:
        self._last = ("", -1)

    def show(self, what: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 0
        if (what, tenth) != self._last:
            print(f"{what} {done:,} of {total:,}" if total else what, file=sys.stderr, flush=True)
        self._last = (what, tenth)

    def close(self) -> None: ...


def _bar() -> _Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    drawn = Progress(*columns, console=Console(stderr=True), transient=True)
    task = drawn.add_task("", total=None)

    class Bar:
        def show(self, what: str, done: int, total: int) -> None:
            drawn.start()
            drawn.update(task, description=what, completed=done, total=total or None)

        def close(self) -> None:
            drawn.stop()

    return Bar()
