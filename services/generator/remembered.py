"""Remembers in a file what LoadModel loaded, so that a restarted service serves it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from common import stored
from common.files import write_whole
from services.generator.models import Models

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Record:
    configured: Models
    served: Models


class Remembered:
    """The file, and the models that the service is configured to serve; with another configuration it is ignored.

    Without a file nothing is remembered.
    """

    def __init__(self, file: Path | None = None, configured: Models | None = None) -> None:
        self._file, self._configured = file, configured or Models("", {})

    def read(self) -> Models | None:
        """Returns what was served last, or None if there is nothing or the file cannot be read, which is logged."""
        if not self._file or not self._file.exists():
            return None
        try:
            record = stored.read(_Record, self._file.read_bytes())
        except OSError as error:
            log.error("what was loaded is not known", file=str(self._file), error=str(error))
            return None
        if not record:
            log.error("what was loaded is not known", file=str(self._file), error="the file is damaged")
            return None
        return record.served if record.configured == self._configured else None

    def write(self, served: Models) -> None:
        """Writes the file. A failure is only logged, because the models are served anyway."""
        if not self._file:
            return
        try:
            write_whole(self._file, json.dumps(asdict(_Record(self._configured, served))) + "\n")
        except OSError as error:
            log.error("what was loaded is not kept", file=str(self._file), error=str(error))
