"""The one command line, `search-agent`. A command's libraries are imported when it runs, not before."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from cli import ask, base_model, cache, headroom, keys, merge, served_index, supervised, teach, universe
from cli import evaluate as evaluate_commands
from cli import index as index_commands
from cli import train as train_commands
from cli.problems import told


def _index(parser: argparse.ArgumentParser) -> None:
    served_index.add_commands(index_commands.add_arguments(parser))


# Each command: its name, one line of help, and what adds its arguments. A command's parser sets `run`,
# a function of the parsed arguments that returns the exit status.
COMMANDS: tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None]], ...] = (
    ("ask", "ask a running gateway and show the search", ask.add_arguments),
    ("evaluate", "ask a running gateway questions by several methods and compare them", evaluate_commands.add_evaluate),
    ("precompute", "fill the naive-RAG cache for training", evaluate_commands.add_precompute),
    ("teach", "make examples for a warm start or a reading adapter", teach.add_arguments),
    ("supervised", "train an adapter on examples", supervised.add_arguments),
    ("base-model", "write a GGUF model in Hugging Face's format, for training", base_model.add_arguments),
    ("merge", "merge an adapter into its base model, to serve or train the whole", merge.add_arguments),
    ("headroom", "measure before a run how much reinforcement could gain", headroom.add_arguments),
    ("train", "start, watch, promote and roll back training runs", train_commands.add_arguments),
    ("keys", "make, list and revoke API keys", keys.add_arguments),
    ("cache", "count or clear the naive-RAG cache", cache.add_arguments),
    ("universe", "make a corpus and questions from worlds of PhantomWiki", universe.add_arguments),
    ("index", "build, list and check indexes, and change running ones", _index),
)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0; 1 if the task failed, 2 if the command line is wrong, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="search-agent", description="Train, serve and watch search agents.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary, add_arguments in COMMANDS:
        add_arguments(commands.add_parser(name, help=summary, description=summary))
    args = parser.parse_args(argv, argparse.Namespace(argv=sys.argv[1:] if argv is None else argv))
    return told(lambda: int(args.run(args)))
