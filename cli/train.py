"""`search-agent train …`: training runs, through the gateway."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from cli import gateway
from cli.terminal import one_line
from common.problems import Problem
from common.training import Promotion, Run, RunState

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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="start a run")
    start.add_argument("config", help="the name of a configuration on the trainer's disk")
    start.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="replace a dotted field, as in data.limit=100"
    )
    start.set_defaults(run=_start)
    commands.add_parser("list", help="list all runs, newest first").set_defaults(run=_list)
    for name, summary, function in (
        ("show", "show a run and its configuration", _show),
        ("watch", "print a line for each step until the run ends", _watch),
        ("cancel", "stop a run", _cancel),
        ("resume", "continue an interrupted run from its newest checkpoint", _resume),
        ("promote", "put a checkpoint in the searcher's place if it passes the gate", _promote),
    ):
        command = commands.add_parser(name, help=summary)
        command.add_argument("run_id", metavar="RUN")
        command.set_defaults(run=function)
        if name == "promote":
            command.add_argument("--checkpoint", type=int, help="step of the checkpoint (default: the newest)")
            command.add_argument(
                "--searcher", default="", help="searcher to replace (default: the one of the run's method)"
            )
    rollback = commands.add_parser("rollback", help="put back what the latest promotion replaced")
    rollback.add_argument(
        "--searcher", default="", help="searcher to roll back (default: the one of methods without their own)"
    )
    rollback.set_defaults(run=_rollback)
    for command in commands.choices.values():
        gateway.add_url(command)


def _start(args: argparse.Namespace) -> int:
    overrides = dict(_override(argument) for argument in args.set)
    with gateway.client(args) as client:
        _print(client.start_run(args.config, overrides))
    return 0


def _override(argument: str) -> tuple[str, Any]:
    field, equals, value = argument.partition("=")
    if not equals or not field:
        raise Problem(f"--set {argument}: must be FIELD=VALUE")
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def _list(args: argparse.Namespace) -> int:
    with gateway.client(args) as client:
        runs = client.runs()
    for run in runs:
        _print(run)
    if not runs:
        print("no runs")
    return 0


def _show(args: argparse.Namespace) -> int:
    with gateway.client(args) as client:
        run = client.run(args.run_id)
    _print(run)
    print("checkpoints:", *(run.checkpoints or ["none"]))
    print(run.config, end="")
    return 0


def _watch(args: argparse.Namespace) -> int:
    """Returns 1 if the run failed."""
    state = None
    with gateway.client(args) as client:
        for event in client.watch_run(args.run_id):
            if isinstance(event, Run):
                _print(event)
                state = event.state
            else:
                said = [form.format(event.metrics[name]) for name, form in _SHOWN if name in event.metrics]
                print(f"step {event.step:>5}  {'  '.join(said)}", flush=True)
    return int(state is RunState.FAILED)


def _cancel(args: argparse.Namespace) -> int:
    with gateway.client(args) as client:
        _print(client.cancel_run(args.run_id))
    return 0


def _resume(args: argparse.Namespace) -> int:
    with gateway.client(args) as client:
        _print(client.resume_run(args.run_id))
    return 0


def _promote(args: argparse.Namespace) -> int:
    """Returns 1 if the gate was not passed."""
    live = sys.stderr.isatty()
    with gateway.client(args) as client:
        for event in client.promote(args.run_id, args.checkpoint, args.searcher):
            if isinstance(event, Promotion):
                promotion = event
            elif live:
                failed = f", {event.failed} failed" if event.failed else ""
                print(f"\rgate: {event.done} of {event.total} answers{failed}", end="", file=sys.stderr, flush=True)
    if live:
        print(file=sys.stderr)
    gate = promotion.gate
    if gate:
        print(f"gate: {gate.outcome.replace('_', ' ')}: {gate.reason}")
        if gate.compared:
            print(
                f"  candidate {gate.candidate:.1%}, current {gate.current:.1%} on {gate.compared} of {gate.asked} "
                f"questions; {gate.wins} won, {gate.losses} lost, p = {gate.p:.2g}; {gate.failed} failed"
            )
    if promotion.promoted:
        verb, before = f"serves checkpoint {promotion.checkpoint} of {promotion.run}", f" (before: {promotion.before})"
    else:
        verb, before = "stays as it was", ""
    print(f"{promotion.searcher} {verb}: {promotion.model}{before}")
    return 0 if promotion.promoted else 1


def _rollback(args: argparse.Namespace) -> int:
    with gateway.client(args) as client:
        done = client.rollback(args.searcher)
    print(f"{done.searcher} serves {done.model} again (before: {done.before})")
    return 0


def _print(run: Run) -> None:
    reason = f"  {one_line(run.reason)}" if run.reason else ""
    print(f"{run.id:<40} {run.state:<10} since {run.changed_at}{reason}", flush=True)
