"""Remembers in a file what LoadModel loaded, so that a restarted service serves it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import structlog

from common.files import write_whole
from services.generator.models import Models

log = structlog.get_logger()


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
            record = json.loads(self._file.read_text(encoding="utf-8"))
            configured, served = Models(**record["configured"]), Models(**record["served"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("what was loaded is not known", file=str(self._file), error=repr(error))
            return None
        return served if configured == self._configured else None

    def write(self, served: Models) -> None:
        """Writes the file. A failure is only logged, because the models serve anyway."""
        if not self._file:
            return
        record = {"configured": asdict(self._configured), "served": asdict(served)}
        try:
            write_whole(self._file, json.dumps(record) + "\n")
        except OSError as error:
            log.error("what was loaded is not kept", file=str(self._file), error=str(error))
