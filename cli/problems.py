"""Turns whatever stops a command into one line on standard error and an exit status."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable

from common import waiting
from common.problems import Problem
from search_agent.errors import BoundaryError


def alone(name: str, add_arguments: Callable[[argparse.ArgumentParser], object]) -> int:
    """Runs one command where the libraries of the others may be missing: `python -m cli.NAME`, as images do."""
    parser = argparse.ArgumentParser(prog=f"search-agent {name}")
    add_arguments(parser)
    args = parser.parse_args(namespace=argparse.Namespace(argv=[name, *sys.argv[1:]]))
    return told(lambda: int(args.run(args)))


def told(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit status: 1 if a problem stopped it, 130 if Ctrl-C did."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the terminal may lack characters of a passage
    try:
        with waiting.shown(waiting.display_on(sys.stderr)):
            status = command()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("search-agent: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has left, as `head` does
        said = ""
    except Problem as problem:
        said = str(problem)
    except BoundaryError as error:
        said = f"{error.boundary}: {error}"
    except ModuleNotFoundError as error:
        said = f"{error.name} is not installed; the extras of pyproject.toml bring what each command needs"
    except UnicodeError as error:
        said = f"text that is not valid UTF-8: {error}"
    except OSError as error:
        said = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    try:
        sys.stdout.flush()
    except OSError:  # the output is lost, and Python would say so again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if said:
        print(f"search-agent: {said}", file=sys.stderr)
    return 1
