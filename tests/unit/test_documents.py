"""Documents name commands, variables and files that exist."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cli.main import COMMANDS
from services.gateway.settings import GatewaySettings
from services.generator.settings import GeneratorSettings
from services.retriever.settings import RetrieverSettings
from services.trainer.settings import TrainerSettings

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", ROOT / "deploy" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
SETTINGS = (GatewaySettings, GeneratorSettings, RetrieverSettings, TrainerSettings)


def shell_commands() -> list[list[str]]:
    """Returns the words of every command in every sh block, without comments and leading variables."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                found.append([word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)])
    return found


def arguments_of(program: str) -> list[list[str]]:
    return [words[1:] for words in shell_commands() if words and Path(words[0]).name == program]


CLI = arguments_of("search-agent") + [words[2:] for words in arguments_of("python") if words[1] == "cli"]


@pytest.mark.parametrize("arguments", CLI, ids=" ".join)
def test_search_agent_accepts_the_command(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for name, _, add_arguments in COMMANDS:
        add_arguments(commands.add_parser(name))
    assert parser.parse_args(arguments).run


@pytest.mark.parametrize("arguments", arguments_of("python"), ids=" ".join)
def test_the_module_can_be_run(arguments: list[str]) -> None:
    assert arguments[0] == "-m"
    module = ROOT / arguments[1].replace(".", "/")
    if module.is_dir():
        assert (module / "__main__.py").is_file()
    else:
        assert "__main__" in module.with_suffix(".py").read_text(encoding="utf-8")


def test_there_are_commands_to_check() -> None:
    assert len(CLI) > 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_are_settings_or_are_read_by_compose(document: Path) -> None:
    known = {
        f"{settings.model_config['env_prefix']}{field}".upper()
        for settings in SETTINGS
        for name, about in settings.model_fields.items()
        for field in (name, *([f"{name}_FILE"] if "SecretStr" in str(about.annotation) else []))
    }
    for file in ("docker-compose.yml", "deploy/compose.gpu.yml"):
        known |= set(re.findall(r"\$\{(\w+)", (ROOT / file).read_text(encoding="utf-8")))
    named = re.findall(r"\b(?:GATEWAY|GENERATOR|RETRIEVER|SEARCHER|TRAINER)_[A-Z_]+\b", document.read_text("utf-8"))
    assert set(named) <= known


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_files_of_code_exist(document: Path) -> None:
    named = re.findall(r"`(?:\.\./)?([\w/.-]+\.(?:py|sh|proto|toml))\b", document.read_text(encoding="utf-8"))
    missing = [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in FILES)]
    assert missing == []
