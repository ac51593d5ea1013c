"""Builds an index folder from a corpus. A build that was killed goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from services.retriever import lexical
from services.retriever import manifest as manifests
from services.retriever.corpus import read_corpus
from services.retriever.encoders import Encoder
from services.retriever.errors import BadRecord, BuildRefused
from services.retriever.manifest import Manifest
from services.retriever.passages import BLOBS, PassageStore, PassageWriter, embedded_text

BATCH = 32  # passages encoded at a time, and the most that a kill loses
_PROGRESS = "vectors.json"  # what the vectors of an unfinished build belong to
_SHOWN = 5  # skipped lines listed one by one


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build. `vectors` is a .npy file of (passages, dim) vectors to take instead of encoding."""

    corpus: Path
    name: str
    out: Path
    encoder: str  # empty: no vectors, BM25 only
    source: str = ""
    licence: str = ""
    on_error: Literal["stop", "skip"] = "stop"
    vectors: Path | None = None
    force: bool = False  # replace an index of that name


@dataclass(slots=True)
class _Skipped:
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, bad: BadRecord) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(str(bad))


def build(plan: Plan, load: Callable[[str], Encoder], say: Callable[[str], None]) -> Path:
    """Builds the index and returns its folder; `say` gets lines for people, `load` makes the encoder.

    Raises BadRecord, BuildRefused or EncoderUnavailable. Until the end everything happens in
    `out`/NAME.building, which stays after a failure so that the next build can use its vectors.
    """
    if not manifests.NAME.fullmatch(plan.name) or plan.name.endswith((".building", ".old")):
        raise BuildRefused(f"--name {plan.name!r}: letters, digits, dots, dashes and underscores only")
    target = plan.out / plan.name
    _undo_half_replacement(target)
    if target.exists() and not plan.force:
        raise BuildRefused(f"{target} exists; --force replaces it")
    work = plan.out / f"{plan.name}.building"
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work):
        skipped = _store_passages(plan, work)
        store = PassageStore(work)
        encoder = load(plan.encoder) if plan.encoder else None
        if encoder and plan.vectors:
            _copy_vectors(plan.vectors, encoder, store, work / manifests.VECTORS, skipped.count)
        elif encoder:
            _encode(encoder, store, work, say)
        texts = tqdm(map(embedded_text, store), "BM25", total=len(store), unit=" passages", disable=None)
        lexical.build(texts, work)
        _finish(plan, work, len(store), encoder)
        _replace(target, work)
    if skipped.count:
        say(f"skipped {skipped.count} bad lines, the first of them:")
        for line in skipped.first:
            say(f"  {line}")
    return target


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BuildRefused(f"{folder}: another build is at work there") from None
    try:
        yield
    finally:
        os.close(handle)


def _store_passages(plan: Plan, work: Path) -> _Skipped:
    skipped = _Skipped()

    def on_bad(bad: BadRecord) -> None:
        if plan.on_error == "stop":
            raise bad
        skipped.add(bad)

    count = 0
    with PassageWriter(work) as writer:
        passages = read_corpus(plan.corpus, on_bad)
        for count, passage in enumerate(tqdm(passages, "read", unit=" passages", disable=None), start=1):  # noqa: B007
            writer.add(passage)
    if not count:
        raise BuildRefused(f"{plan.corpus}: no passages" + (f"; {skipped.first[0]}" if skipped.first else ""))
    return skipped


def _encode(encoder: Encoder, store: PassageStore, work: Path, say: Callable[[str], None]) -> None:
    """Appends vectors batch by batch to a .npy file whose header already states the final shape."""
    path = work / manifests.VECTORS
    owner = {
        "passages": manifests.describe(work / BLOBS).sha256,
        "encoder": encoder.name,
        "dim": encoder.dim,
        "batch": BATCH,
    }
    done = _resumable(work, owner, say)
    with path.open("r+b" if done else "wb") as file:
        shape = (len(store), encoder.dim)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        header = file.tell()
        if not done:
            (work / _PROGRESS).write_text(json.dumps(owner))
        file.truncate(header + done * encoder.dim * 2)
        file.seek(0, os.SEEK_END)
        passages = store.iterate(done)
        with tqdm(desc="encode", initial=done, total=len(store), unit=" passages", disable=None) as progress:
            while batch := [embedded_text(passage) for passage in islice(passages, BATCH)]:
                file.write(encoder.passages(batch).astype("<f2").tobytes())
                file.flush()
                os.fsync(file.fileno())
                progress.update(len(batch))


def _resumable(work: Path, owner: dict[str, object], say: Callable[[str], None]) -> int:
    """How many rows of vectors an earlier build left that are of use: whole batches only."""
    try:
        earlier = json.loads((work / _PROGRESS).read_text())
        with (work / manifests.VECTORS).open("rb") as file:
            np.lib.format.read_magic(file)
            (rows, dim), _, _ = np.lib.format.read_array_header_1_0(file)
            written = (work / manifests.VECTORS).stat().st_size - file.tell()
    except (OSError, ValueError):
        return 0
    if earlier != owner:
        say("the corpus or the encoder is not that of the unfinished build: encoding starts over")
        return 0
    done: int = written // (dim * 2)
    done = rows if done >= rows else done - done % BATCH
    if done:
        say(f"going on with an unfinished build: {done} of {rows} passages are encoded")
    return done


def _copy_vectors(given: Path, encoder: Encoder, store: PassageStore, path: Path, skipped: int) -> None:
    """Takes vectors made elsewhere, after comparing a few with what the encoder itself says."""
    try:
        vectors = np.load(given, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise BuildRefused(f"{given}: not a .npy file: {error}") from error
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise BuildRefused(f"{given}: {vectors.dtype} {vectors.shape}, not a table of floats")
    if len(vectors) != len(store):
        reason = f"{len(vectors)} vectors for {len(store)} passages"
        raise BuildRefused(f"{given}: {reason}" + (f", {skipped} lines were skipped" if skipped else ""))
    if vectors.shape[1] != encoder.dim:
        raise BuildRefused(f"{given}: {vectors.shape[1]} dimensions, {encoder.name} has {encoder.dim}")
    sample = sorted({0, len(store) // 2, len(store) - 1})
    passages = store.get(sample)
    wanted = encoder.passages([embedded_text(passages[row]) for row in sample])
    for row, vector in zip(sample, wanted, strict=True):
        if not float(vector @ vectors[row].astype(np.float32)) > 0.98:
            raise BuildRefused(f"{given}: row {row} is not what {encoder.name} makes of that passage")
    shape = vectors.shape
    copy = np.lib.format.open_memmap(path, mode="w+", dtype="<f2", shape=shape, version=(1, 0))
    for start in range(0, len(vectors), 65_536):
        chunk = vectors[start : start + 65_536].astype(np.float32)
        lengths = np.linalg.norm(chunk, axis=1)
        if not (np.abs(lengths - 1) < 0.01).all():
            bad = start + int(np.argmin(np.abs(lengths - 1) < 0.01))
            raise BuildRefused(f"{given}: row {bad} is not of length 1")
        copy[start : start + 65_536] = chunk
    copy.flush()


def _finish(plan: Plan, work: Path, count: int, encoder: Encoder | None) -> None:
    """Writes the manifest last, and makes sure that all of it is on disk."""
    modes = manifests.modes_of(dense=encoder is not None)
    names = manifests.file_names(modes)
    for path in [path for path in work.rglob("*") if path.is_file()]:
        if path.relative_to(work).as_posix() not in names:
            path.unlink()
    files = {name: manifests.describe(work / name) for name in sorted(names)}
    encoder_name = encoder.name if encoder else ""
    manifest = Manifest(
        name=plan.name,
        version=manifests.content_hash(files, encoder_name, manifests.KIND),
        encoder=encoder_name,
        dim=encoder.dim if encoder else 0,
        count=count,
        modes=modes,
        source=plan.source,
        licence=plan.licence,
        files=files,
    )
    manifests.write(work, manifest)
    for path in [*work.rglob("*"), work]:
        _sync(path)


def _replace(target: Path, work: Path) -> None:
    """Puts the finished folder in place. Readers see the old index, for an instant none, then the new one."""
    old = target.with_name(f"{target.name}.old")
    if target.exists():
        target.rename(old)
    work.rename(target)
    _sync(target.parent)
    if old.exists():
        shutil.rmtree(old)


def _undo_half_replacement(target: Path) -> None:
    """A kill between the two renames of _replace leaves only the old index, under its other name."""
    old = target.with_name(f"{target.name}.old")
    if old.exists() and not target.exists():
        old.rename(target)
    elif old.exists():
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
