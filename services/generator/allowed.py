"""The files that LoadModel may open."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from common import model_card
from services.generator.engine import invalid


@dataclass(frozen=True, slots=True)
class Allowed:
    """Allows regular files, and folders of them, below `folders`.

    Links count as what they lead to, those inside a folder too.
    """

    folders: tuple[Path, ...] = ()

    def check(self, field: str, path: str, known: Collection[str]) -> None:
        """Raises GeneratorError for another file; `known` are served already, and allowed as they are."""
        if not path or path in known:
            return
        try:
            folders = [folder.resolve() for folder in self.folders]
            for file in _files(Path(path).resolve()):
                if not any(file.resolve().is_relative_to(folder) for folder in folders):
                    raise invalid(field, f"{file.name} must lie below one of GENERATOR_FOLDERS")
                if file.exists() and not file.is_file() and not file.is_dir():  # opening a pipe waits for its other end
                    raise invalid(field, f"{file.name} is not a regular file")
        except (OSError, ValueError, RuntimeError) as error:  # NULs, names that are too long, loops of links
            raise invalid(field, f"is not a path: {error}") from None


def _files(path: Path) -> Iterator[Path]:
    """Yields what is opened: a file and the card beside it, or a folder and everything below it."""
    yield path
    if not path.is_dir():
        yield path.with_name(model_card.FILE)
    for folder, folders, files in os.walk(path):
        yield from (Path(folder, name) for name in (*folders, *files))
