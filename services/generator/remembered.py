"""What LoadModel put in place, kept in a file so that a restarted service serves it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from common.files import write_whole

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `Engine.load` takes."""

    path: str
    adapter: str


class Remembered:
    """The file, and what the service is configured to serve: under another configuration the file says nothing.

    Without a file nothing is kept.
    """

    def __init__(self, file: Path | None = None, configured: Loaded = Loaded("", "")) -> None:
        self._file, self._configured = file, configured

    def read(self) -> Loaded | None:
        """None where nothing was loaded, or the file is not readable, which is logged."""
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
        """A file that cannot be written is logged: the model serves all the same."""
        if not self._file:
            return
        record = {"configured": asdict(self._configured), "loaded": asdict(loaded)}
        try:
            write_whole(self._file, json.dumps(record) + "\n")
        except OSError as error:
            log.error("what was loaded is not kept", file=str(self._file), error=str(error))
