"""Gives tests the stack in containers that `deploy/ci/test-compose.sh` started, whose project the environment names."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

if "COMPOSE_PROJECT_NAME" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


def run(*command: str, **environment: str) -> str:
    """Runs a command to its end and returns its output. Fails the test with what it wrote if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


class Stack:
    """The services of the project."""

    def compose(self, *arguments: str, **environment: str) -> str:
        return run("docker", "compose", *arguments, **environment)

    def container(self, service: str) -> dict[str, Any]:
        """Returns what Docker tells of a service's container."""
        (found,) = json.loads(run("docker", "inspect", self.compose("ps", "--quiet", service).strip()))
        return dict(found)


@pytest.fixture(scope="session")
def stack() -> Stack:
    return Stack()
