"""Settings of all tests: of gRPC before any test imports it, of Hypothesis, and of the workers that tests run on."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Ray forks this process, and gRPC's fork handlers abort one child in twenty while calls are in flight. No child here
# uses gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# A busy machine is no fault of the code, so no example has a deadline.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


# Files that share a worker. Each of Ray's starts clusters, which all take port 52365 for the agent that starts jobs.
_TOGETHER = {
    "one stack": tuple(f"tests/e2e/test_{name}.py" for name in ("faults", "openai", "promotion", "rest")),
    "ray": ("tests/integration/test_on_ray.py", "tests/integration/test_ray_jobs.py"),
}


@pytest.hookimpl(optionalhook=True)  # tests also run where xdist is not installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps each file on one worker, since its tests share fixtures; so too the files that share more."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((name for name, files in _TOGETHER.items() if file in files), file)

    return ByFile(config, log)
