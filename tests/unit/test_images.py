"""Every image holds the modules that its programs import, and no folder of code besides."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = {path.name.removesuffix(".Dockerfile"): path for path in (ROOT / "deploy/docker").glob("*.Dockerfile")}
# Programs that no line of the Dockerfile names.
STARTED = {
    "gateway": ["cli.keys"],  # makes keys where the gateway looks for them
    "retriever": ["cli.index"],  # deploy/README.md builds indexes in it
    "trainer": ["services.generator"],  # serves candidates to the gate
    "trainer-gpu": ["learning.train", "learning.ppo", "learning.rollout"],  # the job, and what verl loads by name
}


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_at_the_start(file: Path) -> Iterator[str]:
    """Yields the packages of others that a module imports as it is loaded, and not inside a function."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for package in {name.partition(".")[0] for name in names}:
            if package not in sys.stdlib_module_names and not (ROOT / package).exists():
                yield package


def programs_of(image: str) -> list[str]:
    text = DOCKERFILES[image].read_text(encoding="utf-8")
    return [*re.findall(r'-m[", ]+([a-z_]+(?:\.[a-z_]+)+)', text), *STARTED.get(image, [])]


def reached(modules: list[str]) -> set[str]:
    """Returns the files of this repository that the programs import, directly or not."""
    found: set[Path] = set()
    left = [*modules, *(f"{module}.__main__" for module in modules)]
    while left:
        name = left.pop()
        packages = [name.rsplit(".", dots)[0] for dots in range(1, name.count(".") + 1)]
        for module in (name, *packages):
            file = file_of(module)
            if file and file not in found:
                found.add(file)
                left += imports(file)
    return {file.relative_to(ROOT).as_posix() for file in found}


@pytest.mark.parametrize("image", sorted(DOCKERFILES))
def test_an_image_holds_what_its_programs_import_and_no_more(image: str) -> None:
    text = DOCKERFILES[image].read_text(encoding="utf-8")
    sources = [source for line in re.findall(r"(?m)^COPY (?:--\S+ )?(.+) \S+$", text) for source in line.split()]
    code = [source for source in sources if list(ROOT.joinpath(source).glob("**/*.py")) or source.endswith(".py")]
    needed = reached(programs_of(image))
    assert needed
    assert [file for file in sorted(needed) if not any(file == c or file.startswith(f"{c}/") for c in code)] == []
    assert [c for c in code if not any(file == c or file.startswith(f"{c}/") for file in needed)] == []


@pytest.mark.parametrize("image", sorted(DOCKERFILES))
def test_the_lock_of_an_image_has_the_packages_that_its_programs_import(image: str) -> None:
    text = DOCKERFILES[image].read_text(encoding="utf-8").replace("$LOCK", image)
    (lock,) = re.findall(r"(?m)^COPY (requirements/\S+) requirements.txt$", text)
    locked = {normal(name) for name in re.findall(r"(?m)^([\w.-]+)==", (ROOT / lock).read_text(encoding="utf-8"))}
    distributions = packages_distributions()  # what is not installed here cannot be looked up
    missing = {
        (file, package)
        for file in reached(programs_of(image))
        for package in packages_at_the_start(ROOT / file)
        if package in distributions and not locked & {normal(name) for name in distributions[package]}
    }
    assert missing == set()


def normal(name: str) -> str:
    """Returns a distribution's name as the locks write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("image", sorted(DOCKERFILES))
def test_what_an_image_copies_goes_to_the_builder(image: str) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    text = DOCKERFILES[image].read_text(encoding="utf-8").replace("$LOCK", "retriever")
    lines = re.findall(r"(?m)^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text)
    sources = [source for line in lines for source in line.split()]
    assert [source for source in sources if not any(source == s or source.startswith(f"{s}/") for s in sent)] == []
