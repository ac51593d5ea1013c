"""`search-agent merge`: a base model with a LoRA adapter merged in, as a model folder of its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "base_model", metavar="MODEL", help="base model: a folder in Hugging Face's format, or a hub id"
    )
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="folder of a LoRA adapter in PEFT's format")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; it has MODEL's dtype and tokenizer")
    parser.set_defaults(run=_merge)


def _merge(args: argparse.Namespace) -> int:
    from common import model_card
    from common.problems import Problem
    from common.run_config import ConfigProblem
    from learning.weights import merge

    if args.out.exists():
        raise Problem(f"OUT: {args.out} exists")
    try:
        merge(args.base_model, str(args.adapter.absolute()), args.out)  # a folder, and no hub id
    except ConfigProblem as problem:
        argument = {"base_model": "MODEL", "adapter": "ADAPTER"}[problem.field]
        raise Problem(f"{argument}: {problem.message}") from problem
    except OSError as error:
        raise Problem(f"OUT: {args.out} cannot be written: {error.strerror or error}") from error
    trained_on, base = model_card.read(args.adapter).base_model, model_card.base_of(Path(args.base_model))
    if trained_on not in ("", base) and base:
        told = f"ADAPTER was trained on the base model {trained_on}, and MODEL is {base}"
        print(f"search-agent: {told}; the merged model may answer worse", file=sys.stderr)
    print(args.out)
    return 0
