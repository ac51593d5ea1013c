"""Gives tests the whole stack over REST: the one at SEARCH_AGENT_URL, or local processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from common.addresses import free_port
from deploy.local import ADAPTERS, Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Starts local processes, which a test may stop and start."""
    folders = f"{tmp_path_factory.getbasetemp()},{ADAPTERS}"  # tests promote adapters that they write there
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GENERATOR_FOLDERS", folders)
        # Other tests run beside these, and threads of llama.cpp that wait for each other are slow then.
        environment.setenv("GENERATOR_THREADS", "1")
        with Stack(free_port(), logs=tmp_path_factory.mktemp("logs")) as running:
            yield running


@pytest.fixture(scope="session")
def rest(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    url = os.environ.get("SEARCH_AGENT_URL") or request.getfixturevalue("stack").url
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client
