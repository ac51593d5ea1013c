"""`search-agent supervised`: a LoRA adapter from examples, for a warm start or a reading adapter."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.arguments import add_settings, positive, settings_of
from learning.warm_start.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="folder of the model in Hugging Face's format"
    )
    parser.add_argument(
        "--examples", type=Path, required=True, metavar="FILE", help="examples that `search-agent teach` wrote"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the adapter; a killed run resumes"
    )
    parser.add_argument("--start", type=Path, metavar="DIR", help="adapter to begin with (default: a fresh one)")
    parser.add_argument(
        "--stop",
        type=positive,
        nargs="*",
        default=[],
        metavar="STEP",
        help="also keep the adapter as it is after STEP steps",
    )
    add_settings(parser, Settings)
    parser.set_defaults(run=_supervised)


def _supervised(args: argparse.Namespace) -> int:
    from common.error_text import one_line
    from common.problems import Problem
    from learning.warm_start.supervised import read_card, read_spans, train

    if not args.model.is_dir():
        raise NotADirectoryError(20, "Not a folder", args.model)
    try:
        examples, card = read_spans(args.examples), read_card(args.examples)
        train(args.model, examples, args.out, settings_of(args, Settings), args.start, args.stop, card)
    except ValueError as error:  # transformers and PEFT raise it for files that they cannot use
        raise Problem(one_line(error)) from error
    return 0
