"""Both generations of Compose read every layout, and the changes that the deployment guide describes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.compose.conftest import run

ROOT = Path(__file__).parents[2]
COMPOSES = [("docker", "compose"), ("docker-compose",)]
GPU = ("-f", "docker-compose.yml", "-f", "deploy/compose.gpu.yml", "--profile", "train")
LAYOUTS = {"cpu": (), "tracing": ("--profile", "tracing"), "gpu": GPU} | {
    env.stem: ("--env-file", str(env), *GPU) for env in sorted((ROOT / "deploy").glob("gpu-*.env"))
}


@pytest.fixture(params=COMPOSES, ids="-".join)
def compose(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if not shutil.which(request.param[0]):
        pytest.skip("docker-compose 1.29 is not installed")
    return request.param


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_understood(compose: tuple[str, ...], layout: str) -> None:
    run(*compose, *LAYOUTS[layout], "config", "--quiet")


def test_documented_changes_are_understood(compose: tuple[str, ...], tmp_path: Path) -> None:
    guide = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    override = tmp_path / "override.yml"
    for layout, section in zip((("-f", "docker-compose.yml"), GPU), guide.split("\n## On GPUs\n"), strict=True):
        changes = re.findall(r"```yaml\n(services:\n.*?)```", section, re.DOTALL)
        assert changes
        for change in changes:
            override.write_text(change, encoding="utf-8")
            run(*compose, *layout, "-f", str(override), "config", "--quiet")
