"""`search-agent train`: runs of a running trainer, by way of the gateway."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from services import rest
from services.rest import AskError

_SHOWN = ("reward", "gain", "accuracy", "selected", "dropped_samples", "validation_accuracy", "step_seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `search-agent train …`."""
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the gateway (default: %(default)s)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="start a run")
    start.add_argument("config", help="the name of a built-in configuration, or a YAML file")
    start.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="replace a field, as data.limit=1000"
    )
    start.set_defaults(run=_start)
    commands.add_parser("list", help="all runs, newest first").set_defaults(run=_list)
    for name, does, run in (
        ("watch", "show a run's steps as they come", _watch),
        ("cancel", "stop a run, which can be resumed", _change),
        ("resume", "go on with a run from its newest checkpoint", _change),
    ):
        command = commands.add_parser(name, help=does)
        command.add_argument("id", help="of the run")
        command.set_defaults(run=run, change=name)
    promote = commands.add_parser("promote", help="serve a checkpoint if it passes the gate")
    promote.add_argument("id", help="of the run")
    promote.add_argument("--checkpoint", type=int, default=0, metavar="STEP", help="default: the newest")
    promote.set_defaults(run=_promote)
    commands.add_parser("rollback", help="serve what was served before the last promotion").set_defaults(run=_rollback)


def _start(args: argparse.Namespace) -> int:
    overrides: dict[str, Any] = {}
    for pair in args.set:
        field, equals, value = pair.partition("=")
        if not equals:
            raise AskError(f"--set {pair}: must be FIELD=VALUE")
        try:
            overrides[field] = json.loads(value)
        except ValueError:
            overrides[field] = value  # a plain word
    config = args.config
    if (file := Path(config)).suffix in (".yaml", ".yml"):
        try:
            config = file.read_text(encoding="utf-8")
        except OSError as error:
            raise AskError(f"{file}: {error.strerror}") from None
    print(_line(rest.call("POST", f"{args.url}/v1/runs", {"config": config, "overrides": overrides})))
    return 0


def _list(args: argparse.Namespace) -> int:
    for run in rest.call("GET", f"{args.url}/v1/runs"):
        print(_line(run))
    return 0


def _change(args: argparse.Namespace) -> int:
    print(_line(rest.call("POST", f"{args.url}/v1/runs/{args.id}/{args.change}")))
    return 0


def _watch(args: argparse.Namespace) -> int:
    run: dict[str, Any] = {}
    for event, data in rest.events("GET", f"{args.url}/v1/runs/{args.id}/events", timeout_s=None):
        if event == "step":
            shown = (f"{name} {data['metrics'][name]:.3g}" for name in _SHOWN if name in data["metrics"])
            print(f"step {data['step']:>5}  {'  '.join(shown)}", flush=True)
        else:
            run = data
            print(_line(run), flush=True)
    return 0 if run.get("state") == "finished" else 1


def _promote(args: argparse.Namespace) -> int:
    body = {"checkpoint": args.checkpoint}
    # hundreds of questions are asked first
    found = rest.call("POST", f"{args.url}/v1/runs/{args.id}/promote", body, timeout_s=None)
    gate = found["gate"]
    print(
        f"{'passed' if gate['passed'] else 'refused'}: {gate['reason']} "
        f"(candidate {100 * gate['candidate']:.1f} %, current {100 * gate['current']:.1f} %, "
        f"{gate['questions']} questions, {gate['failed']} failed)"
    )
    print(f"serving {found['serving']['model']}")
    return 0 if gate["passed"] else 1


def _rollback(args: argparse.Namespace) -> int:
    print(f"serving {rest.call('POST', f'{args.url}/v1/rollback')['model']}")
    return 0


def _line(run: dict[str, Any]) -> str:
    steps = f"  checkpoints {', '.join(map(str, run['checkpoints']))}" if run["checkpoints"] else ""
    return f"{run['id']}  {run['state']}{steps}{'  ' + run['reason'] if run['reason'] else ''}"
