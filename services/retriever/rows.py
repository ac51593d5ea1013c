"""Tables of vectors that are read piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


class Rows(Protocol):
    """A table of vectors that is read a range of rows at a time; rows of length 1."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class StoredRows(Rows, Protocol):
    """The vectors of a file. `faiss` is the opened FAISS index where the file is one, else None."""

    path: Path
    faiss: Any
