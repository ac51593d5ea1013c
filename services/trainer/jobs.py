"""The jobs that train: one process of `learning.train` on the cluster for each, over Ray's job API."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import httpx

from common.http import TooLarge, fetch
from search_agent.errors import Failure, TrainerError

_TIMEOUT_S = 15.0  # of a whole answer
_LOG_BYTES = 256 * 1024 * 1024


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # on request
    UNKNOWN = "unknown"  # the cluster has no such job, or no longer


@dataclass(frozen=True, slots=True)
class Job:
    """A job's state. `exit_code` is None until the process has ended, or if Ray does not know it."""

    state: JobState
    exit_code: int | None = None
    message: str = ""


class Jobs(Protocol):
    """Runs `learning.train` on a run's folder. Every method raises TrainerError."""

    async def submit(self, job: str, folder: Path) -> None:
        """Submits a job under a new id."""
        ...

    async def status(self, job: str) -> Job: ...

    async def stop(self, job: str) -> None:
        """Asks the job to stop and returns at once; `status` tells when it has stopped."""
        ...

    async def log(self, job: str) -> str:
        """Returns what the process has written so far."""
        ...


_STATES = {
    "PENDING": JobState.WAITING,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.STOPPED,
}


class RayJobs:
    """Jobs of a Ray cluster over its REST API, so that the trainer service needs neither Ray nor a GPU.

    `address` is the address of Ray's dashboard, http://HEAD:8265. `python` is the cluster's Python with verl, and
    `start_in` the cluster's folder that relative paths of a configuration start from. The nodes must see the folder of
    runs under the same path as this machine. `token` is empty for a cluster without one.
    """

    def __init__(self, address: str, python: str, start_in: Path, token: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        base_url = address.rstrip("/")
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        self._python, self._start_in = python, start_in

    async def submit(self, job: str, folder: Path) -> None:
        start_in, python, run = (shlex.quote(str(part)) for part in (self._start_in, self._python, folder))
        await self._ask(
            "POST",
            "/api/jobs/",
            json={
                "submission_id": job,
                "entrypoint": f"cd {start_in} && exec {python} -m learning.train {run}",
                "metadata": {"run": folder.name},
            },
        )

    async def status(self, job: str) -> Job:
        response = await self._ask("GET", f"/api/jobs/{job}", accept=404)
        if response.status_code == 404:
            return Job(JobState.UNKNOWN)
        found = response.json()
        if found["status"] not in _STATES:
            raise TrainerError(Failure.BROKEN, f"Ray reports an unknown state of job {job}: {found['status']!r}")
        return Job(_STATES[found["status"]], found.get("driver_exit_code"), found.get("message") or "")

    async def stop(self, job: str) -> None:
        await self._ask("POST", f"/api/jobs/{job}/stop", accept=404)

    async def log(self, job: str) -> str:
        response = await self._ask("GET", f"/api/jobs/{job}/logs", accept=404, most_bytes=_LOG_BYTES)
        return str(response.json().get("logs") or "") if response.status_code == 200 else ""

    async def close(self) -> None:
        await self._http.aclose()

    async def _ask(self, method: str, path: str, accept: int = 200, **request: Any) -> httpx.Response:
        try:
            response = await fetch(self._http, method, path, **request)
        except TooLarge as error:
            raise TrainerError(Failure.BROKEN, f"Ray's answer is too long: {error}") from None
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise TrainerError(Failure.UNAVAILABLE, f"the Ray cluster does not answer: {said}") from error
        if response.status_code in (401, 403):
            raise TrainerError(Failure.UNAVAILABLE, "the Ray cluster refuses the token (TRAINER_RAY_TOKEN)")
        if response.status_code not in (200, accept):
            detail = response.text.strip().splitlines()[-1:] or [""]
            raise TrainerError(Failure.BROKEN, f"Ray answered {response.status_code}: {detail[0]}")
        return response
