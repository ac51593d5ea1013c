"""The metadata of an index by column: which rows have which value. Filters are answered from it, not from passages."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from search_agent.filters import Condition, Filter, Operator, Typed, typed
from services.retriever.errors import IndexRefused

COLUMNS = "metadata.npz"
_CACHED_BYTES = 64 * 1024 * 1024  # of the latest filters' rows, a byte a row


class Selection:
    """The rows that pass a filter; `mask` has a boolean per row."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask
        self.count = int(mask.sum())

    @cached_property
    def packed(self) -> np.ndarray:
        """Returns the mask as FAISS reads it, eight rows per byte."""
        return np.packbits(self.mask, bitorder="little")


class ColumnsWriter:
    """Collects the metadata of passages in row order, and writes it by column if there is any."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[Typed, array[int]]] = {}
        self._row = 0

    def add(self, metadata: Mapping[str, Any]) -> None:
        for key, held in metadata.items():
            column = self._columns.setdefault(key, {})
            for value in {*typed(held)}:
                column.setdefault(value, array("I")).append(self._row)
        self._row += 1

    def write(self, folder: Path) -> None:
        """Writes the file, or removes an earlier one if no passage has metadata. The same rows give the same bytes."""
        if not self._columns:
            (folder / COLUMNS).unlink(missing_ok=True)
            return
        keys = sorted(self._columns)
        arrays = {"keys": _bytes(keys)}
        for number, key in enumerate(keys):
            column = sorted(self._columns[key].items())
            of_rank = [[value.value for value, _ in column if value.rank == rank] for rank in range(3)]
            arrays |= {
                f"{number}.flags": np.array(of_rank[0], dtype=bool),
                f"{number}.numbers": np.array(of_rank[1], dtype=np.float64),
                f"{number}.texts": _bytes(of_rank[2]),
                f"{number}.starts": np.cumsum([0, *(len(rows) for _, rows in column)], dtype=np.int64),
                f"{number}.rows": np.concatenate([np.frombuffer(rows, dtype=np.uint32) for _, rows in column]),
            }
        np.savez(folder / COLUMNS, **arrays)  # type: ignore[arg-type]


class Columns:
    """The columns of the `count` passages in a folder. A column is read when a filter first needs it."""

    def __init__(self, folder: Path, count: int) -> None:
        """Raises IndexRefused."""
        self._path, self._count = folder / COLUMNS, count
        self._stored: Any = {}
        self.keys: tuple[str, ...] = ()
        if self._path.exists():
            try:
                self._stored = np.load(self._path, allow_pickle=False)
                self.keys = tuple(_texts(self._stored["keys"]))
            except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError) as error:
                raise IndexRefused(self._path, f"unreadable: {error}") from error
        self._numbers = {key: number for number, key in enumerate(self.keys)}
        self._read: dict[str, _Column] = {}
        self._selected: OrderedDict[Filter, Selection] = OrderedDict()

    def select(self, filter: Filter) -> Selection | None:
        """Returns the rows that pass, or None if all do."""
        if not filter:
            return None
        if filter not in self._selected:
            masks = [self._meeting(condition) for condition in filter.conditions]
            self._selected[filter] = Selection(np.logical_and.reduce(masks))
            while len(self._selected) > max(1, _CACHED_BYTES // max(1, self._count)):
                self._selected.popitem(last=False)
        self._selected.move_to_end(filter)
        return self._selected[filter]

    def _meeting(self, condition: Condition) -> np.ndarray:
        mask = np.zeros(self._count, dtype=bool)
        if condition.key in self._numbers:
            column = self._column(condition.key)
            for start, stop in column.places(condition):
                mask[column.rows[column.starts[start] : column.starts[stop]]] = True
        if condition.operator is Operator.EXISTS and not condition.values[0].value:
            return ~mask
        return mask

    def _column(self, key: str) -> _Column:
        if key not in self._read:
            try:
                self._read[key] = _Column(self._stored, self._numbers[key])
            except (OSError, ValueError, KeyError, EOFError, TypeError) as error:
                raise IndexRefused(self._path, f"unreadable: {error}") from error
        return self._read[key]


class _Column:
    """The values of a key in order, and the rows of each: those of value n from `starts[n]` to `starts[n + 1]`."""

    def __init__(self, stored: Any, number: int) -> None:
        flags, numbers = stored[f"{number}.flags"].tolist(), stored[f"{number}.numbers"]
        self._values: tuple[Any, ...] = (flags, numbers, _texts(stored[f"{number}.texts"]))  # by rank
        self._first = [0, len(flags), len(flags) + len(numbers)]
        self.starts, self.rows = stored[f"{number}.starts"], stored[f"{number}.rows"]

    def places(self, condition: Condition) -> list[tuple[int, int]]:
        """Returns the ranges of values that meet the condition, or all for one on existence."""
        match condition.operator:
            case Operator.EXISTS:
                return [(0, len(self.starts) - 1)]
            case Operator.IN:
                return [(self._place(value, False), self._place(value, True)) for value in condition.values]
            case Operator.AT_LEAST:
                (bound,) = condition.values
                return [(self._place(bound, False), self._first[bound.rank] + len(self._values[bound.rank]))]
            case Operator.AT_MOST:
                (bound,) = condition.values
                return [(self._first[bound.rank], self._place(bound, True))]

    def _place(self, value: Typed, after: bool) -> int:
        """Returns the number of values before `value`, itself included if `after`."""
        values = self._values[value.rank]
        if isinstance(values, np.ndarray):
            place = int(np.searchsorted(values, value.value, side="right" if after else "left"))
        else:
            place = (bisect_right if after else bisect_left)(values, value.value)
        return self._first[value.rank] + place


def _bytes(texts: list[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(texts, ensure_ascii=False).encode(), dtype=np.uint8)


def _texts(stored: np.ndarray) -> list[str]:
    found: list[str] = json.loads(stored.tobytes())
    return found
