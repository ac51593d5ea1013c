"""Scored naive-RAG results as a Parquet file, to copy them to another Redis or to inspect them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import stored
from common.files import draft_of
from common.rag_store import RagStore, Score, Scored
from evaluation.errors import EvaluateProblem
from search_agent.rag_cache import PREFIX

_BATCH = 1000
_KEPT = tuple(Scored.__dataclass_fields__)
_SHOWN = ("question", "golds", "answer", "gen_acc")


def check() -> None:
    """Raises EvaluateProblem if Parquet cannot be read or written here."""
    _pyarrow()


async def save(store: RagStore, path: Path, index: str = "") -> int:
    """Writes the scored results of one index, or of all. Returns their number. Raises CacheError, EvaluateProblem."""
    pa, parquet = _pyarrow()
    text = pa.string()
    schema = pa.schema(
        [(name, text) for name in _KEPT]
        + [("question", text), ("golds", pa.list_(text)), ("answer", text), ("gen_acc", pa.float64())]
    )
    count, rows = 0, []
    with draft_of(path) as draft, parquet.ParquetWriter(draft, schema, compression="zstd") as writer:
        async for scored in store.dump(index):
            if not (shown := stored.read(Score, scored.score)):
                continue  # damaged or from another version: precompute makes it again
            rows.append(asdict(scored) | {name: getattr(shown, name) for name in _SHOWN})
            count += 1
            if len(rows) == _BATCH:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return count


async def load(store: RagStore, path: Path) -> int:
    """Stores a file's results in Redis. Returns their number. Raises CacheError, EvaluateProblem."""
    count = 0
    for rows in _batches(path):
        for number, row in enumerate(rows, count + 1):
            if not row["key"] or not row["key"].startswith(PREFIX) or not all(row.values()):
                raise EvaluateProblem(f"{path}: row {number} is not a scored result")
        await store.restore([Scored(**row) for row in rows])
        count += len(rows)
    return count


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    pa, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            types = {field.name: field.type for field in file.schema_arrow}
            if bad := [name for name in _KEPT if types.get(name) not in (pa.string(), pa.large_string())]:
                raise EvaluateProblem(f"{path}: no text column {', '.join(bad)}")
            for batch in file.iter_batches(_BATCH, columns=list(_KEPT)):
                yield batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise EvaluateProblem(f"{path}: {error}") from None


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise EvaluateProblem("Parquet needs pyarrow: pip install search-agent[evaluate]") from None
    return pyarrow, pyarrow.parquet
