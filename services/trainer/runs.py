"""Training runs as they lie on disk: RUNS/ID/run.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from search_agent.errors import Failure, TrainerError


@dataclass(frozen=True, slots=True)
class Run:
    """`created_at` is RFC 3339 in UTC, so that text order is time order."""

    id: str
    state: str
    created_at: str


def list_runs(folder: Path) -> list[Run]:
    """Newest first. Raises TrainerError for a record that cannot be read, naming the file."""
    runs = []
    for file in folder.glob("*/run.json"):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            runs.append(Run(file.parent.name, str(record["state"]), str(record["created_at"])))
        except (ValueError, KeyError, TypeError) as error:
            raise TrainerError(Failure.BROKEN, f"{file}: not a run record: {error!r}") from error
    return sorted(runs, key=lambda run: run.created_at, reverse=True)
