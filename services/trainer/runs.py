"""Training runs on disk: RUNS/ID/run.json beside the files that the run itself writes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from common import run_config
from common.files import write_whole
from common.run_config import ConfigProblem, RunConfig
from common.training import Run, RunState
from search_agent.errors import Failure, TrainerError

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,254}")  # as long as a file's name may be
_STEP = re.compile(r"global_step_(\d+)")
_RECORD = TypeAdapter(Run)
_NOT_RECORDED = {"id", "config", "checkpoints"}  # the folder has them


def now() -> str:
    return _rfc3339(datetime.now(UTC))


def _rfc3339(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


class Runs:
    """The runs of a folder that nobody else writes to. Every method raises TrainerError."""

    def __init__(self, folder: Path, clock: Callable[[], str] = now) -> None:
        self._folder, self._clock = folder.absolute(), clock

    def create(self, settings: RunConfig) -> Run:
        """Makes a new run, queued, in a folder of its own."""
        at = self._clock()
        first = id = f"{settings.name}-{re.sub('[^0-9]', '', at)}"
        number = 1
        while not self._made(id):
            number += 1
            id = f"{first}-{number}"
        run = Run(id, RunState.QUEUED, at, at)
        try:
            self._put(id, "config.yaml", run_config.dump(settings))
            return self._write(run)
        except TrainerError:
            shutil.rmtree(self.path(id), ignore_errors=True)
            raise

    def path(self, id: str) -> Path:
        """Returns the run's folder, whether it exists or not."""
        return self._folder / id

    def get(self, id: str) -> Run:
        """Returns the run as it was recorded, without its configuration and checkpoints.

        A run whose record cannot be read is DAMAGED.
        """
        file = self.path(id) / "run.json"
        if not _ID.fullmatch(id) or not file.exists():
            raise TrainerError(Failure.NOT_FOUND, f"no run is called {id!r}")
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return _RECORD.validate_python({**record, "id": id})
        except (OSError, ValueError, TypeError, RecursionError):
            at = _rfc3339(datetime.fromtimestamp(self.path(id).stat().st_mtime, UTC))
            advice = (
                "its run.json cannot be read: restore the file, or remove the run's folder on the trainer's machine"
            )
            return Run(id, RunState.DAMAGED, at, at, reason=advice)

    def ids(self) -> list[str]:
        """Returns the ids of all runs, damaged ones too."""
        return [id for file in self._folder.glob("*/run.json") if _ID.fullmatch(id := file.parent.name)]

    def all(self) -> list[Run]:
        """Returns all runs, newest first, without their configurations."""
        found = [replace(self.get(id), checkpoints=tuple(self.checkpoints(id))) for id in self.ids()]
        return sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)

    def whole(self, run: Run) -> Run:
        """Returns the run with its configuration and checkpoints."""
        return replace(run, config=self._config_text(run.id), checkpoints=tuple(self.checkpoints(run.id)))

    def move(self, run: Run, state: RunState, reason: str = "") -> Run:
        """Records that the run is in another state."""
        return self._write(replace(run, state=state, changed_at=self._clock(), reason=reason))

    def again(self, run: Run) -> Run:
        """Queues the run once more, for a job that continues from its newest checkpoint."""
        queued = replace(run, state=RunState.QUEUED, changed_at=self._clock(), jobs=run.jobs + 1, reason="")
        return self._write(queued)

    def config(self, id: str) -> RunConfig:
        """Returns the run's configuration. One that this version cannot read is UNSUPPORTED."""
        try:
            return run_config.read(self._config_text(id), source="config.yaml")
        except ConfigProblem as problem:
            message = f"the configuration of run {id} cannot be used: {problem}; start a new run"
            raise TrainerError(Failure.UNSUPPORTED, message) from None

    def _config_text(self, id: str) -> str:
        """Returns the resolved configuration as YAML, empty if there is none."""
        try:
            return (self.path(id) / "config.yaml").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def checkpoints(self, id: str) -> list[int]:
        """Returns the steps that were saved, ascending."""
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
        record = {name: value for name, value in asdict(run).items() if name not in _NOT_RECORDED}
        self._put(run.id, "run.json", json.dumps(record, indent=1) + "\n")
        return run

    def _put(self, id: str, name: str, text: str) -> None:
        try:
            write_whole(self.path(id) / name, text)
        except OSError as error:
            raise TrainerError(Failure.UNAVAILABLE, f"run {id} cannot be recorded: {error.strerror}") from error
