"""Gives tests the whole stack over REST: the one at SEARCH_AGENT_URL, or local processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from common.addresses import free_port
from deploy.local import ADAPTERS, Stack
from tests.waiting import LIMIT_S

CALLS = ("RETRIEVER", "SEARCHER", "GENERATOR", "TRAINER", "QUESTION")
TIMEOUTS = (*(f"GATEWAY_{call}_TIMEOUT_S" for call in CALLS), "TRAINER_SEARCHER_TIMEOUT_S")


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Starts local processes, which a test may stop and start."""
    folders = f"{tmp_path_factory.getbasetemp()},{ADAPTERS}"  # tests promote adapters that they write there
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GENERATOR_FOLDERS", folders)
        # Other tests run beside these, and threads of a model that wait for each other are slow then.
        environment.setenv("GENERATOR_THREADS", "1")
        for setting in TIMEOUTS:
            environment.setenv(setting, str(LIMIT_S))
        with Stack(free_port(), logs=tmp_path_factory.mktemp("logs")) as running:
            yield running


@pytest.fixture(scope="package")
def rest(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    url = os.environ.get("SEARCH_AGENT_URL") or request.getfixturevalue("stack").url
    with httpx.Client(base_url=url, timeout=LIMIT_S) as client:
        yield client
