"""Remembers in a file what LoadModel loaded, so that a restarted service serves it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from common.files import write_whole

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The arguments of `Engine.load`."""

    path: str
    adapter: str


class Remembered:
    """The file, and the model that the service is configured to serve; with another configuration the file is ignored.

    Without a file nothing is remembered.
    """

    def __init__(self, file: Path | None = None, configured: Loaded = Loaded("", "")) -> None:
        self._file, self._configured = file, configured

    def read(self) -> Loaded | None:
        """Returns what was loaded, or None if there is nothing or the file cannot be read, which is logged."""
        if not self._file or not self._file.exists():
            return None
        try:
            record = json.loads(self._file.read_text(encoding="utf-8"))
            configured, loaded = Loaded(**record["configured"]), Loaded(**record["loaded"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("what was loaded is not known", file=str(self._file), error=repr(error))
            return None
        return loaded if configured == self._configured else None

    def write(self, loaded: Loaded) -> None:
        """Writes the file. A failure is only logged, because the model serves anyway."""
        if not self._file:
            return
        record = {"configured": asdict(self._configured), "loaded": asdict(loaded)}
        try:
            write_whole(self._file, json.dumps(record) + "\n")
        except OSError as error:
            log.error("what was loaded is not kept", file=str(self._file), error=str(error))
