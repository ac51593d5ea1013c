"""`search-agent base-model`, in images `python -m cli.base_model`: a GGUF model in Hugging Face's format."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cli.problems import alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="DIR", help="folder to write, for training and vLLM")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="default: the embedded SmolLM2-135M-Instruct")
    parser.set_defaults(run=_base_model)


def _base_model(args: argparse.Namespace) -> int:
    from common.error_text import one_line
    from common.problems import Problem
    from services.generator.base_model import unpack
    from services.generator.gguf_files import embedded_model

    if args.gguf and not args.gguf.is_file():
        raise FileNotFoundError(2, "No such file", args.gguf)
    try:
        print(unpack(args.gguf or embedded_model(), args.out))
    except ValueError as error:  # transformers raises it for a file that it cannot read
        raise Problem(one_line(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(alone("base-model", add_arguments))
