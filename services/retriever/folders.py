"""Puts a finished index folder in place. Until then everything happens in NAME.building beside it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.retriever import bm25, dense, kinds, lucene
from services.retriever import manifest as manifests
from services.retriever.errors import BuildRefused
from services.retriever.manifest import Manifest


@contextmanager
def new_index(out: Path, name: str, force: bool) -> Iterator[Path]:
    """The folder to work in, which becomes `out`/`name` at the end; after an error it stays as it is.

    Raises BuildRefused if the name is none, is taken (unless `force`), or is being worked on.
    """
    if not manifests.NAME.fullmatch(name) or name.endswith((".building", ".old")):
        raise BuildRefused(f"--name {name!r}: letters, digits, dots, dashes and underscores only")
    target = out / name
    _undo_half_replacement(target)
    if target.exists() and not force:
        raise BuildRefused(f"{target} exists; --force replaces it")
    work = out / f"{name}.building"
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work):
        yield work
        _replace(target, work)


@dataclass(frozen=True, slots=True)
class About:
    """What a manifest says that its files do not. `encoder` is empty and `dim` 0 without vectors."""

    name: str
    encoder: str
    dim: int
    count: int
    source: str
    licence: str
    kind: str = kinds.FLAT
    bm25: str = bm25.BM25S
    parameters: Mapping[str, int] | None = None


def seal(work: Path, about: About, vectors: str) -> None:
    """Removes what is no part of the index, writes the manifest, and makes sure that all is on disk.

    `vectors` is the name of the file with the vectors, empty without.
    """
    names = manifests.file_names(vectors, about.bm25)
    if about.bm25 == bm25.LUCENE:
        names |= {f"{lucene.FOLDER}/{path.name}" for path in (work / lucene.FOLDER).iterdir()}
    for path in sorted(work.rglob("*"), reverse=True):  # a folder after what is in it
        if path.is_file() and path.relative_to(work).as_posix() not in names:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    files = {name: manifests.describe(work / name) for name in sorted(names)}
    parameters = dict(about.parameters or {})
    manifest = Manifest(
        name=about.name,
        version=manifests.content_hash(files, about.encoder, about.kind, parameters),
        encoder=about.encoder,
        dim=about.dim,
        count=about.count,
        modes=manifests.modes_of(bool(vectors), bool(about.bm25)),
        source=about.source,
        licence=about.licence,
        files=files,
        kind=about.kind,
        parameters=parameters,
        bm25=about.bm25,
    )
    manifests.write(work, manifest)
    for path in [*work.rglob("*"), work]:
        _sync(path)


def convert(folder: Path, manifest: Manifest, kind: str, name: str, out: Path, force: bool) -> Path:
    """Another rung over the vectors of an existing index, whose `manifest` was read; nothing is encoded.

    All files but the vectors are hard links where the file system can, else copies. Raises BuildRefused.
    """
    if not manifest.dim:
        raise BuildRefused(f"{folder}: has no vectors")
    rows = dense.Stored(folder / manifest.vectors, manifest.kind, manifest.count, manifest.dim)
    if (out / name).resolve() == folder.resolve():
        raise BuildRefused(f"{folder}: an index cannot be converted onto itself; choose another --name or --out")
    with new_index(out, name, force) as work:
        shutil.rmtree(work / lucene.FOLDER, ignore_errors=True)
        for file in manifest.files.keys() - {manifest.vectors}:
            _link(folder / file, work / file)
        parameters = kinds.parameters(kind, manifest.count, manifest.dim)
        dense.write(rows, kind, parameters, work / dense.FAISS)
        about = About(
            name, manifest.encoder, manifest.dim, manifest.count, manifest.source, manifest.licence,
            kind, manifest.bm25, parameters,
        )  # fmt: skip
        seal(work, about, dense.FAISS)
    return out / name


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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
