"""Training runs as they lie on disk: RUNS/ID/run.json beside what the run itself writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from common import run_config
from common.files import write_whole
from common.run_config import RunConfig
from search_agent.errors import Failure, TrainerError

_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")
_STEP = re.compile(r"global_step_(\d+)")


class RunState(StrEnum):
    QUEUED = "queued"  # Ray has it and has not started it
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # by itself, for the reason it gave
    FAILED = "failed"  # it crashed
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (RunState.QUEUED, RunState.RUNNING)


@dataclass(frozen=True, slots=True)
class Run:
    """Times are RFC 3339 in UTC, so that text order is time order. `job` is the latest job's id at Ray;
    `jobs` counts them all. `reason` is why it stopped or failed."""

    id: str
    state: RunState
    created_at: str
    changed_at: str
    jobs: int = 1
    reason: str = ""

    @property
    def job(self) -> str:
        return f"{self.id}-{self.jobs}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Runs:
    """The runs of a folder, which only this object writes. Every method raises TrainerError."""

    def __init__(self, folder: Path, clock: Callable[[], str] = now) -> None:
        self._folder, self._clock = folder.absolute(), clock

    def create(self, settings: RunConfig) -> Run:
        """A new run, queued, in a folder of its own."""
        at = self._clock()
        first = id = f"{settings.name}-{re.sub('[^0-9]', '', at)}"
        number = 1
        while not self._made(id):
            number += 1
            id = f"{first}-{number}"
        write_whole(self.path(id) / "config.yaml", run_config.dump(settings))
        run = Run(id, RunState.QUEUED, at, at)
        self._write(run)
        return run

    def path(self, id: str) -> Path:
        """The run's folder, whether it is there or not."""
        return self._folder / id

    def get(self, id: str) -> Run:
        file = self.path(id) / "run.json"
        if not _ID.fullmatch(id) or not file.is_file():
            raise TrainerError(Failure.NOT_FOUND, f"no run is called {id!r}")
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return Run(file.parent.name, **{**record, "state": RunState(record["state"])})
        except (ValueError, KeyError, TypeError) as error:
            raise TrainerError(Failure.BROKEN, f"{file}: not a run record: {error!r}") from error

    def ids(self) -> list[str]:
        """Of every run, also of one whose record is broken."""
        return [file.parent.name for file in self._folder.glob("*/run.json")]

    def all(self) -> list[Run]:
        """Newest first."""
        found = [self.get(id) for id in self.ids()]
        return sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)

    def move(self, run: Run, state: RunState, reason: str = "") -> Run:
        """The run in another state."""
        return self._write(replace(run, state=state, changed_at=self._clock(), reason=reason))

    def again(self, run: Run) -> Run:
        """The run queued once more, for a job that goes on from its newest checkpoint."""
        queued = replace(run, state=RunState.QUEUED, changed_at=self._clock(), jobs=run.jobs + 1, reason="")
        return self._write(queued)

    def config(self, id: str) -> RunConfig:
        return run_config.read(self.config_text(id), source=f"{id}/config.yaml")

    def config_text(self, id: str) -> str:
        """The resolved configuration, YAML."""
        return (self.path(id) / "config.yaml").read_text(encoding="utf-8")

    def checkpoints(self, id: str) -> list[int]:
        """The steps that were saved, ascending."""
        saved = (_STEP.fullmatch(path.name) for path in self.path(id).glob("checkpoints/*"))
        return sorted(int(found[1]) for found in saved if found)

    def _made(self, id: str) -> bool:
        try:
            self.path(id).mkdir(parents=True)
        except FileExistsError:
            return False
        except OSError as error:
            raise TrainerError(Failure.UNAVAILABLE, f"{self.path(id)} cannot be made: {error.strerror}") from error
        return True

    def _write(self, run: Run) -> Run:
        record = asdict(run)
        del record["id"]
        write_whole(self.path(run.id) / "run.json", json.dumps(record, indent=1) + "\n")
        return run
