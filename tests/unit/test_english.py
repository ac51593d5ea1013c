"""Docstrings say what a thing does, is or returns (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_no_docstring_begins_with_what_of_or_that() -> None:
    found = []
    for file in FILES:
        if "_pb2" in file or not (ROOT / file).exists():
            continue
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = (ast.get_docstring(node) or "").split()
                if words and words[0] in ("What", "Of", "That"):
                    found.append(f"{file}:{getattr(node, 'lineno', 1)}")
    assert found == []
