"""Sets what must be set before any test imports gRPC, and tells which tests stay together on one worker."""

from __future__ import annotations

import os
from typing import Any

import pytest

# Ray forks this process, and gRPC's fork handlers abort one child in twenty while calls are in flight. No child here
# uses gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.hookimpl(optionalhook=True)  # tests also run where xdist is not installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps each file on one worker, since its tests share fixtures, and all of tests/e2e, which shares one stack."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/e2e" if nodeid.startswith("tests/e2e/") else nodeid.partition("::")[0]

    return ByFile(config, log)
