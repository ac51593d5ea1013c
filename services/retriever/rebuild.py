"""Builds a version of an index from the previous one and changes. Vectors of unchanged texts are reused."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common import metrics
from common.indexes import Removal
from search_agent.types import Passage
from services.retriever import bm25, dense, folders, kinds
from services.retriever import manifest as manifests
from services.retriever.changes import edits_of
from services.retriever.encoders import SharedEncoder
from services.retriever.manifest import Manifest
from services.retriever.passages import BLOBS, PassageStore, PassageWriter, embedded_text
from services.retriever.rows import Rows

_CHUNK = 65_536  # rows of vectors at a time


@dataclass
class Progress:
    """The progress of a build: its phase, and how many of the passages that are new to the encoder are encoded."""

    phase: str = "read"
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class _Merged:
    """The passages of a new version: for each its row in the old one, or -1; and the texts of the latter."""

    rows: np.ndarray
    texts: list[str]
    changed: bool


def rebuild(
    old: Path, changes: Iterable[Path], work: Path, encoder: SharedEncoder | None, progress: Progress
) -> Manifest | None:
    """Writes the index of `old` with the changes into `work`. Returns its manifest, or None if nothing changes.

    The order of passages stays, and new ones follow. Raises BuildRefused or IndexRefused.
    """
    made = manifests.read(old, verify_checksums=False)
    merged = _merge(old, made, changes, work)
    if not merged.changed:
        return None
    count, kind = len(merged.rows), kinds.KINDS[made.kind]
    vectors = ""
    if count and encoder:
        progress.total = len(merged.texts)
        stored = dense.exact_rows(old / made.vectors, kind, made.count, made.dim) if made.count else None
        progress.phase = "encode"
        _write_vectors(merged, stored, made.dim, encoder, work / kinds.VECTORS, progress)
        vectors = kind.files[0]
        if vectors != kinds.VECTORS:
            progress.phase = "vectors"
            rows = dense.Stored(work / kinds.VECTORS, kinds.FLAT, count, made.dim)
            dense.write(rows, kind, kind.parameters(count, made.dim), work / vectors)
    backend = bm25.BACKENDS[made.bm25]
    if count:
        progress.phase = "words"
        backend.build(map(embedded_text, PassageStore(work)), work)
    else:
        (work / BLOBS).unlink()  # an index without passages has no files
    parameters = kind.parameters(count, made.dim) if made.dim else {}
    new = replace(made, count=count, parameters=parameters, bm25_parameters=backend.parameters)
    return folders.seal(work, new, vectors)


def _merge(old: Path, made: Manifest, changes: Iterable[Path], work: Path) -> _Merged:
    edits = {edit.id: edit for path in changes for edit in edits_of(path)}
    rows, texts, changed = array("q"), list[str](), False

    def add(passage: Passage, row: int) -> None:
        writer.add(passage)
        rows.append(row)
        if row < 0:
            texts.append(embedded_text(passage))

    with PassageWriter(work) as writer:
        for row, passage in enumerate(PassageStore(old) if made.count else ()):
            edit = edits.pop(passage.id, passage)
            changed = changed or edit != passage
            if not isinstance(edit, Removal):
                add(edit, row if embedded_text(edit) == embedded_text(passage) else -1)
        for edit in edits.values():
            if not isinstance(edit, Removal):
                add(edit, -1)
                changed = True
    return _Merged(np.array(rows, dtype=np.int64), texts, changed)


def _write_vectors(
    merged: _Merged, stored: Rows | None, dim: int, encoder: SharedEncoder, path: Path, progress: Progress
) -> None:
    written = dense.new_rows(path, len(merged.rows), dim)
    for start in range(0, len(merged.rows), _CHUNK):
        rows = merged.rows[start : start + _CHUNK]
        kept = np.flatnonzero(rows >= 0)
        if stored is not None and len(kept):
            first, last = int(rows[kept[0]]), int(rows[kept[-1]])  # rows that stay keep their order
            written[start + kept] = np.asarray(stored[first : last + 1])[rows[kept] - first]
    new = np.flatnonzero(merged.rows < 0)
    for vectors in encoder.in_background(merged.texts):
        written[new[progress.done : progress.done + len(vectors)]] = vectors
        progress.done += len(vectors)
        metrics.RETRIEVER_ENCODED_PASSAGES.inc(len(vectors))
    written.flush()
