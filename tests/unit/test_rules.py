"""Rules of CONTRIBUTING that can be read off the code."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("cli", "services", "learning", "evaluation", "search_agent_client", "common", "contracts", "search_agent")
LISTED = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
FILES = [name for name in LISTED.splitlines() if name.endswith(".py") and (ROOT / name).exists()]


SERVED = ("retriever", "generator", "trainer")


def files_with(has: Callable[[ast.AST], bool]) -> set[str]:
    return {file for file in FILES if any(map(has, ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))))}


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(*modules: str) -> Callable[[ast.AST], bool]:
    return lambda node: any(
        name == module or name.startswith(f"{module}.") for name in imported(node) for module in modules
    )


def test_in_the_core_only_readers_of_models_text_hold_regular_expressions() -> None:
    core = {file for file in files_with(imports("re")) if file.startswith("search_agent/")}
    assert core <= {"search_agent/tags.py", "search_agent/grading/answers.py", "search_agent/grading/judge.py"}


def test_messages_stay_between_a_codec_and_the_wire() -> None:
    outside = {
        file
        for file in files_with(imports(*(f"contracts.v1.{name}_pb2" for name in SERVED)))
        if not file.startswith(("contracts/", "common/codecs/"))
    }
    assert outside <= {"common/backends.py", *(f"services/{name}/service.py" for name in SERVED)}


def test_the_control_plane_and_the_other_services_know_nothing_of_the_training_job() -> None:
    assert not [file for file in files_with(imports("learning")) if file.startswith("services/")]


def test_a_failure_of_the_gateway_is_counted_in_one_place() -> None:
    def counts(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr == "AGENT_FAILURES"

    assert files_with(counts) == {"services/gateway/observed.py"}


# Who reads the environment beside settings, `main()` and the command line, and why.
ENVIRONMENT = {
    "common/secret.py": "reads secrets for settings and for the command line",
    "learning/train.py": "Ray tells a job its place there",
    "services/retriever/encoders.py": "hides OMP_NUM_THREADS from a library while it loads",
}


def test_settings_are_read_once() -> None:
    def reads(node: ast.AST) -> bool:
        match node:
            case ast.Subscript(value=ast.Attribute(attr="environ"), ctx=ast.Load()):
                return True
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="environ"), attr="get")):
                return True
            case ast.Call(func=ast.Attribute(attr="getenv")):
                return True
        return False

    allowed = {
        file for file in FILES if file.startswith("cli/") or Path(file).name in ("settings.py", "__main__.py")
    } | ENVIRONMENT.keys()
    assert files_with(reads) <= allowed


def test_what_needs_the_trainers_packages_is_run_where_they_are() -> None:
    """Such a file skips itself in `make test`, so `make test-torch` has to name it or its folder."""
    with_them = subprocess.run(
        ["make", "-n", "test-torch"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    named = {word for word in with_them.split() if word.startswith("tests/")}
    skips = subprocess.run(
        ["git", "grep", "-l", r"pytest\.importorskip(", "tests"], cwd=ROOT, capture_output=True, text=True
    )
    left_out = [file for file in skips.stdout.splitlines() if not any(file.startswith(each) for each in named)]
    assert skips.stdout
    assert left_out == []
