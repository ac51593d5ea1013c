"""What a table of vectors is to those that read it piece by piece."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Rows(Protocol):
    """A table of vectors that is read a range of rows at a time; rows of length 1."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...
