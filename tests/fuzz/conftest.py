"""Gives the tests one stack, which must live to their end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.served import Stack, started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[Stack]:
    with started(folder) as stack:
        yield stack
