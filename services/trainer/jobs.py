"""The process of a run, `python -m services.trainer.train RUN`, as a job of a Ray cluster."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import httpx

from search_agent.errors import Failure, TrainerError

_TIMEOUT_S = 30.0


class JobState(StrEnum):
    """Ray's names, and one for a job that the cluster does not know (any more)."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    UNKNOWN = "UNKNOWN"


class Jobs(Protocol):
    """What runs are submitted to. Every call raises TrainerError where that does not answer."""

    async def submit(self, run: Path) -> str:
        """Starts the run of that folder, or goes on with it, and returns the job's name."""
        ...

    async def state(self, job: str) -> tuple[JobState, str]:
        """And what the cluster says about it."""
        ...

    async def stop(self, job: str) -> None: ...

    async def close(self) -> None: ...


class NoCluster:
    """In place of a cluster where none is configured: all but the training itself works."""

    async def submit(self, run: Path) -> str:
        raise TrainerError(Failure.UNSUPPORTED, "training needs a Ray cluster with a GPU; TRAINER_RAY_ADDRESS names it")

    async def state(self, job: str) -> tuple[JobState, str]:
        return JobState.UNKNOWN, ""

    async def stop(self, job: str) -> None:
        raise TrainerError(Failure.UNSUPPORTED, "no Ray cluster is configured (TRAINER_RAY_ADDRESS)")

    async def close(self) -> None:
        """Nothing is held open."""


class RayJobs:
    """Ray's job API over HTTP (the dashboard's address, port 8265 by default), which needs no Ray here.

    The cluster's nodes have this project installed with verl, and see the runs' folder under the same path.
    """

    def __init__(self, address: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(base_url=address, timeout=_TIMEOUT_S, transport=transport)

    async def submit(self, run: Path) -> str:
        command = f"python3 -m services.trainer.train {shlex.quote(str(run))}"
        found = await self._ask("POST", "/api/jobs/", {"entrypoint": command, "metadata": {"run": run.name}})
        return str(found["submission_id"])

    async def state(self, job: str) -> tuple[JobState, str]:
        found = await self._ask("GET", f"/api/jobs/{job}", missing={"status": JobState.UNKNOWN})
        return JobState(str(found["status"])), str(found.get("message") or "")

    async def stop(self, job: str) -> None:
        await self._ask("POST", f"/api/jobs/{job}/stop", missing={})

    async def close(self) -> None:
        await self._http.aclose()

    async def _ask(
        self, method: str, path: str, body: object = None, missing: dict[str, object] | None = None
    ) -> dict[str, object]:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TimeoutException:
            raise TrainerError(Failure.TIMEOUT, "Ray did not answer in time") from None
        except httpx.HTTPError as error:
            raise TrainerError(Failure.UNAVAILABLE, "Ray cannot be reached") from error
        if response.status_code == 404 and missing is not None:
            return missing
        if response.status_code >= 400:
            raise TrainerError(Failure.BROKEN, f"Ray answered {response.status_code}: {response.text[:300]}")
        found = response.json()
        assert isinstance(found, dict)
        return found
