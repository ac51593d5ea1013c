"""The README's map and its walk through the code match the repository."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
CODE = (".py", ".sh", ".proto", ".Dockerfile")
CORE = "search_agent"  # the last folder that the import order covers


def section(heading: str) -> str:
    return README.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def folders_on_the_map() -> Iterator[str]:
    """Yields paths without the final slash, in order. An indented line names folders inside the one above."""
    outer = ""
    for line in re.findall(r"```\n(.*?)```", section("The map"), re.DOTALL)[0].splitlines():
        names = [name.removesuffix("/") for name in re.split(r"  +", line.strip())[0].split()]
        if line.startswith(" "):
            yield from (f"{outer}/{name}" for name in names)
        else:
            (outer,) = names
            yield outer


def test_the_map_has_every_folder_of_code() -> None:
    inside = {"/".join(Path(file).parent.parts[:2]) for file in FILES if file.endswith(CODE) and "/" in file}
    tests = {folder for folder in inside if folder.startswith("tests/")}  # the map's caption names them
    drawn = set(folders_on_the_map())
    assert inside - tests <= drawn
    assert {folder for folder in drawn if not (ROOT / folder).is_dir()} == set()
    assert {name.removeprefix("tests/") for name in tests} <= set(re.findall(r"(\w+)/", section("The map")))


def test_the_map_names_files_that_exist() -> None:
    names = {Path(file).name for file in FILES}
    named = set(re.findall(r"\b\w+\.py\b", section("The map")))
    assert "reward.py" in named
    assert named <= names


def rooms() -> list[str]:
    outermost = [folder for folder in folders_on_the_map() if "/" not in folder]
    return outermost[: outermost.index(CORE) + 1]


@pytest.mark.parametrize("room", rooms())
def test_a_folder_imports_only_from_those_below_it(room: str) -> None:
    order = rooms()
    above = set(order[: order.index(room)])
    imports = set()
    for file in FILES:
        if file.startswith(f"{room}/") and file.endswith(".py") and (ROOT / file).exists():
            for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imports |= {(alias.name.partition(".")[0], file) for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imports.add((node.module.partition(".")[0], file))
    assert {(name, file) for name, file in imports if name in above} == set()


STEPS = re.findall(r"`([\w/]+\.py):([\w.]+)`", section("Follow a question"))


def test_there_are_eight_steps() -> None:
    assert len(re.findall(r"^\d\. ", section("Follow a question"), re.MULTILINE)) == 8
    assert len(STEPS) >= 8


@pytest.mark.parametrize(("file", "name"), STEPS)
def test_each_step_names_a_function(file: str, name: str) -> None:
    nodes: list[ast.stmt] = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [
            node
            for node in nodes
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == part
        ]
        assert found, f"{file} has no {name}"
        nodes = found[0].body


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 120
