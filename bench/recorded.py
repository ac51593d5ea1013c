"""Writes a result with its machine, date and command: `python -m bench.recorded --command … --out FILE NAME=FILE…`.

Each NAME=FILE is a part of the result, and null if that FILE is not there: it was not measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NVIDIA_SMI = ("nvidia-smi", "-L")


def device(command: Sequence[str] = NVIDIA_SMI) -> str:
    """Returns the machine in words; `command` prints a line for each GPU, as in "GPU 0: NVIDIA H100 (UUID: …)"."""
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    name = lines[0].partition(":")[2].partition("(")[0].strip()
    return f"{len(lines)} × {name} of one host, {os.cpu_count()} cores"


def write(file: Path, machine: str, command: str, parts: Mapping[str, Any]) -> None:
    about = {"device": machine, "date": datetime.datetime.now().isoformat(timespec="seconds"), "command": command}
    file.write_text(json.dumps(about | dict(parts), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.recorded", description=__doc__)
    parser.add_argument("--command", required=True, help="the command that anyone repeats it with")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("parts", nargs="+", metavar="NAME=FILE")
    args = parser.parse_args()
    files = {name: Path(file) for name, _, file in (each.partition("=") for each in args.parts)}
    found = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}
    write(args.out, device(), args.command, dict.fromkeys(files) | found)


if __name__ == "__main__":
    main()
