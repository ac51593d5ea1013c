"""The files that LoadModel may open."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.generator.engine import invalid


@dataclass(frozen=True, slots=True)
class Allowed:
    """Allows regular files, and folders of them, below `folders`; links count as what they lead to."""

    folders: tuple[Path, ...] = ()

    def check(self, field: str, path: str, known: Collection[str]) -> None:
        """Raises GeneratorError for another file; `known` are served already, and allowed as they are."""
        if not path or path in known:
            return
        try:
            whole = Path(path).resolve()
            if not any(whole.is_relative_to(folder.resolve()) for folder in self.folders):
                raise invalid(field, "must lie below one of GENERATOR_FOLDERS")
            for file in _files(whole):
                if file.exists() and not file.is_file() and not file.is_dir():  # opening a pipe waits for its other end
                    raise invalid(field, f"{file.name} is not a regular file")
        except (OSError, ValueError, RuntimeError) as error:  # NULs, names that are too long, loops of links
            raise invalid(field, f"is not a path: {error}") from None


def _files(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from path.iterdir()
