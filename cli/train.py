"""`search-agent train …`: training runs, through the gateway."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cli import rest
from cli.arguments import add_url
from cli.rest import AskError

# What `watch` shows of a step, where the step has it.
_SHOWN = (
    ("reward/reward", "reward {:+.3f}"),
    ("reward/gain", "gain {:+.3f}"),
    ("reward/accuracy", "accuracy {:.3f}"),
    ("reward/coverage", "coverage {:.3f}"),
    ("validation/accuracy", "validation {:.3f}"),
    ("conduct/searches", "searches {:.2f}"),
    ("conduct/selected", "selected {:.2f}"),
    ("conduct/malformed", "malformed {:.2f}"),
    ("samples/dropped", "dropped {:.0f}"),
    ("policy/entropy", "entropy {:.3f}"),
    ("policy/choice_entropy", "choice {:.2f} nat"),
    ("policy/mixed_groups", "mixed {:.0%}"),
    ("policy/kl_to_base", "kl {:.4f}"),
    ("seconds/step", "{:.1f} s"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search-agent train`."""
    add_url(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="start a run")
    start.add_argument("config", help="a configuration's name, or a file of yours that ends in .yaml")
    start.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="replace a dotted field, as in data.limit=100"
    )
    start.set_defaults(run=_start)
    commands.add_parser("list", help="all runs, newest first").set_defaults(run=_list)
    for name, summary, function in (
        ("show", "a run and its configuration", _show),
        ("watch", "a line for each step, until the run has ended", _watch),
        ("cancel", "tell a run to stop", _cancel),
        ("resume", "let a run that broke off go on from its newest checkpoint", _resume),
        ("promote", "put a checkpoint in the searcher's place if it passes the gate", _promote),
    ):
        command = commands.add_parser(name, help=summary)
        command.add_argument("run_id", metavar="RUN")
        command.set_defaults(run=function)
        if name == "promote":
            command.add_argument("--checkpoint", type=int, help="its step (default: the newest)")
            command.add_argument("--searcher", default="", help="default: the one that the run's method asks")
    rollback = commands.add_parser("rollback", help="put back what the latest promotion replaced")
    rollback.add_argument("--searcher", default="", help="default: the searcher of methods without their own")
    rollback.set_defaults(run=_rollback)


def _start(args: argparse.Namespace) -> int:
    text = args.config
    if text.endswith((".yaml", ".yml")):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise AskError(f"{args.config}: {error}") from None
    overrides = dict(_override(argument) for argument in args.set)
    _print(rest.call("POST", f"{args.url}/v1/runs", {"config": text, "overrides": overrides}))
    return 0


def _override(argument: str) -> tuple[str, Any]:
    field, equals, value = argument.partition("=")
    if not equals or not field:
        raise AskError(f"--set {argument}: must be FIELD=VALUE")
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def _list(args: argparse.Namespace) -> int:
    runs = rest.call("GET", f"{args.url}/v1/runs", kind=list)
    for run in runs:
        _print(run)
    if not runs:
        print("no runs")
    return 0


def _show(args: argparse.Namespace) -> int:
    run = rest.call("GET", f"{args.url}/v1/runs/{args.run_id}")
    _print(run)
    print("checkpoints:", *(run["checkpoints"] or ["none"]))
    print(run["config"], end="")
    return 0


def _watch(args: argparse.Namespace) -> int:
    """Returns 1 if the run failed."""
    state = ""
    for event, data in rest.events("GET", f"{args.url}/v1/runs/{args.run_id}/events", None, timeout_s=None):
        if event == "run":
            _print(data)
            state = data["state"]
        elif event == "step":
            said = [form.format(data["metrics"][name]) for name, form in _SHOWN if name in data["metrics"]]
            print(f"step {data['step']:>5}  {'  '.join(said)}", flush=True)
    return int(state == "failed")


def _cancel(args: argparse.Namespace) -> int:
    _print(rest.call("POST", f"{args.url}/v1/runs/{args.run_id}/cancel"))
    return 0


def _resume(args: argparse.Namespace) -> int:
    _print(rest.call("POST", f"{args.url}/v1/runs/{args.run_id}/resume"))
    return 0


def _promote(args: argparse.Namespace) -> int:
    """Returns 1 if the gate was not passed."""
    body = {"searcher": args.searcher, "stream": True} | ({"checkpoint": args.checkpoint} if args.checkpoint else {})
    done: dict[str, Any] = {}
    live = sys.stderr.isatty()
    for event, data in rest.events("POST", f"{args.url}/v1/runs/{args.run_id}/promote", body, timeout_s=None):
        if event == "progress" and live:
            failed = f", {data['failed']} failed" if data["failed"] else ""
            print(f"\rgate: {data['done']} of {data['total']} answers{failed}", end="", file=sys.stderr, flush=True)
        elif event == "done":
            done = data
    if live:
        print(file=sys.stderr)
    if not done:
        raise AskError("the gateway's answer broke off; ask again, and the gate goes on where it stopped")
    gate = done["gate"]
    print(f"gate: {gate['outcome'].replace('_', ' ')}: {gate['reason']}")
    if gate["compared"]:
        print(
            f"  candidate {gate['candidate']:.1%}, current {gate['current']:.1%} on {gate['compared']} of "
            f"{gate['asked']} questions; {gate['wins']} won, {gate['losses']} lost, p = {gate['p']:.2g}; "
            f"{gate['failed']} failed"
        )
    verb = f"serves checkpoint {done['checkpoint']} of {done['run']}" if done["promoted"] else "stays as it was"
    print(f"{done['searcher']} {verb}: {done['model']}" + (f" (before: {done['before']})" if done["promoted"] else ""))
    return 0 if done["promoted"] else 1


def _rollback(args: argparse.Namespace) -> int:
    done = rest.call("POST", f"{args.url}/v1/rollback", {"searcher": args.searcher})
    print(f"{done['searcher']} serves {done['model']} again (before: {done['before']})")
    return 0


def _print(run: dict[str, Any]) -> None:
    reason = f"  {run['reason']}" if run["reason"] else ""
    print(f"{run['id']:<40} {run['state']:<10} since {run['changed_at']}{reason}", flush=True)
