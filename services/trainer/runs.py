"""Training runs as they lie on disk: RUNS/ID/, with run.json as what this service knows of them."""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from search_agent.errors import Failure, TrainerError
from services.trainer.config import RunConfig, dump

_CHECKPOINT = re.compile(r"global_step_(\d+)")


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # by itself, for the reason that it gave
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True, slots=True)
class Run:
    """`created_at` is RFC 3339 in UTC, so that text order is time order. `job` is Ray's name of its process."""

    id: str
    config: str
    state: State
    created_at: str
    job: str = ""
    reason: str = ""


class Runs:
    """The runs of a folder. Every change is on disk, in whole, before it is told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, run: str) -> Path:
        return self._folder / run

    def create(self, config: RunConfig) -> Run:
        """A queued run with its folder and config.yaml."""
        now = datetime.now(UTC)
        name = f"{config.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        run = Run(name, config.name, State.QUEUED, now.isoformat(timespec="seconds"))
        self.path(name).mkdir(parents=True)
        (self.path(name) / "config.yaml").write_text(dump(config), encoding="utf-8")
        self.save(run)
        return run

    def save(self, run: Run) -> None:
        _write_whole(self.path(run.id) / "run.json", json.dumps(asdict(run), indent=1) + "\n")

    def get(self, run: str) -> Run:
        """Raises TrainerError for an unknown run, and for a record that cannot be read, naming the file."""
        file = self.path(run) / "run.json"
        if "/" in run or run.startswith(".") or not file.is_file():
            raise TrainerError(Failure.NOT_FOUND, f"there is no run {run!r}", "id")
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            return replace(Run(**record), state=State(record["state"]))
        except (ValueError, KeyError, TypeError) as error:
            raise TrainerError(Failure.BROKEN, f"{file}: not a run record: {error!r}") from error

    def list(self) -> list[Run]:
        """Newest first. Raises TrainerError."""
        runs = [self.get(file.parent.name) for file in self._folder.glob("*/run.json")]
        return sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True)

    def reason(self, run: str) -> str:
        """Why the run stopped by itself; empty if it did not."""
        try:
            return (self.path(run) / "reason.txt").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def checkpoints(self, run: str) -> dict[int, Path]:
        """Folders by step, ascending."""
        found = (self.path(run) / "checkpoints").glob("global_step_*")
        steps = {int(match[1]): path for path in found if (match := _CHECKPOINT.fullmatch(path.name))}
        return dict(sorted(steps.items()))


def _write_whole(file: Path, text: str) -> None:
    draft = file.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)
