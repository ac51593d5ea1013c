"""Makes index folders. All work happens in NAME.building, which takes the place of NAME when it is finished."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from search_agent.types import IndexVersion
from services.retriever import dense, kinds
from services.retriever import manifest as manifests
from services.retriever.errors import BuildRefused, IndexRefused
from services.retriever.kinds import Kind
from services.retriever.manifest import Manifest

# Endings of folders beside an index NAME: one being built, one being replaced, changes that wait, versions kept, and
# all of these while they are removed.
WORKING = (".building", ".old", ".changes", ".versions", ".gone")
_FULL = 1 << 20  # bytes that are free on a disk on which there is no room


@contextmanager
def new_index(out: Path, name: str, force: bool) -> Iterator[Path]:
    """Yields the folder to work in, which becomes `out`/`name` at the end; after an error it stays as it is.

    A new index has neither changes nor versions of an earlier one of its name. Raises OSError, and BuildRefused if the
    name is malformed, is taken (unless `force`) or is being worked on.
    """
    if not manifests.NAME.fullmatch(name) or name.endswith(WORKING):
        raise BuildRefused(f"--name {name!r}: letters, digits, dots, dashes and underscores only")
    target = out / name
    work = out / f"{name}.building"
    undo_half_replacement(target)
    if target.exists() and not force:
        raise BuildRefused(f"{target} exists; --force replaces it")
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work), _explained(work):
        yield work
        if not target.exists():
            remove(target, but=work)
        put_in_place(target, work, keep=0)


@contextmanager
def working(out: Path, name: str) -> Iterator[Path]:
    """Yields the empty folder in which the next version of `out`/`name` is made. After an error it is empty again.

    Raises OSError, and BuildRefused if it is being worked on.
    """
    work = out / f"{name}.building"
    undo_half_replacement(out / name)
    work.mkdir(exist_ok=True)
    with _locked(work), _explained(work):
        empty(work)
        try:
            yield work
        except BaseException:  # on a full disk, others need the room
            if work.is_dir():
                empty(work)
            raise


@contextmanager
def _explained(work: Path) -> Iterator[None]:
    """Reports that the disk is full where numpy reports only that it wrote less than expected."""
    try:
        yield
    except OSError as error:
        if error.errno or shutil.disk_usage(work).free > _FULL:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work)) from error


def candidates(root: Path) -> list[Path]:
    """Returns the folders in `root` that may be indexes, in order, without kept versions and unfinished builds."""
    return sorted(path for path in root.iterdir() if path.is_dir() and path.suffix not in WORKING)


def empty(folder: Path) -> None:
    """Removes all that is in a folder."""
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def seal(work: Path, manifest: Manifest, vectors: str) -> Manifest:
    """Removes files that do not belong to the index, completes and writes the manifest, and syncs all to disk.

    `vectors` is the name of the file with the vectors, empty if there is none. Returns the manifest as written.
    """
    present = {path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()}
    names = manifests.file_names(vectors, manifest.bm25, present)
    for path in sorted(work.rglob("*"), reverse=True):  # a folder after what is in it
        if path.is_file() and path.relative_to(work).as_posix() not in names:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    files = {name: manifests.describe(work / name) for name in sorted(names)}
    sealed = replace(manifest, files=files, modes=manifests.modes_of(bool(manifest.dim), bool(manifest.bm25)))
    sealed = replace(sealed, version=manifests.version_of(sealed))
    manifests.write(work, sealed)
    for path in [*work.rglob("*"), work]:
        _sync(path)
    return sealed


def versions_of(target: Path) -> Path:
    """Returns the folder of an index's kept versions, each under its version."""
    return target.with_name(f"{target.name}.versions")


def versions(target: Path) -> tuple[IndexVersion, ...]:
    """Returns the kept versions of an index that can be read, newest first."""
    found = []
    for path in versions_of(target).glob(f"*/{manifests.MANIFEST}"):
        try:
            made = manifests.read(path.parent, verify_checksums=False)
            found.append(IndexVersion(made.version, made.count, path.stat().st_mtime))
        except (IndexRefused, OSError):
            continue
    return tuple(sorted(found, key=lambda each: -each.built))


def remove(target: Path, but: Path | None = None) -> None:
    """Removes an index and everything kept beside it, `but` one folder. The index itself goes at once.

    Raises OSError, and the index is then still there.
    """
    gone = target.with_name(f"{target.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)  # of a kill
    gone.mkdir(exist_ok=True)
    for folder in (target, *(target.with_name(target.name + ending) for ending in WORKING)):
        if folder.exists() and folder not in (gone, but):
            folder.rename(gone / folder.name)
    shutil.rmtree(gone, ignore_errors=True)


def convert(folder: Path, manifest: Manifest, kind: Kind, name: str, out: Path, force: bool) -> Path:
    """Makes another kind from the vectors of an existing index, whose `manifest` was read; nothing is encoded.

    All files but the vectors are hard links where the file system can, else copies. Raises BuildRefused.
    """
    if not manifest.dim:
        raise BuildRefused(f"{folder}: has no vectors")
    source = kinds.KINDS[manifest.kind]
    rows = dense.exact_rows(folder / manifest.vectors, source, manifest.count, manifest.dim)
    if (out / name).resolve() == folder.resolve():
        raise BuildRefused(f"{folder}: an index cannot be converted onto itself; choose another --name or --out")
    with new_index(out, name, force) as work:
        empty(work)  # what a killed build left cannot be told from this index's files
        for file in manifest.files.keys() - {manifest.vectors}:
            _link(folder / file, work / file)
        parameters = kind.parameters(manifest.count, manifest.dim)
        dense.write(rows, kind, parameters, work / kinds.FAISS)
        seal(work, replace(manifest, name=name, kind=kind.name, parameters=parameters), kinds.FAISS)
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
        raise BuildRefused(f"{folder}: another build is running there") from None
    try:
        yield
    finally:
        os.close(handle)


def put_in_place(target: Path, work: Path, keep: int) -> None:
    """Puts a finished folder in place. Readers see the old index, for an instant no index, then the new one.

    The old one is kept among the newest `keep` versions.
    """
    old = target.with_name(f"{target.name}.old")
    if keep:
        versions_of(target).mkdir(exist_ok=True)
    if target.exists():
        target.rename(old)
    try:
        work.rename(target)
    except OSError:
        undo_half_replacement(target)
        raise
    _sync(target.parent)
    if version := _readable(old) if keep else "":
        kept = versions_of(target) / version
        shutil.rmtree(kept, ignore_errors=True)
        old.rename(kept)
        for path in sorted(kept.parent.iterdir(), key=_built)[:-keep]:
            shutil.rmtree(path)
    elif old.exists():
        shutil.rmtree(old)


def _readable(folder: Path) -> str:
    """Returns the version of an index, empty if there is none that could be served again."""
    try:
        return manifests.read(folder, verify_checksums=False).version
    except IndexRefused:
        return ""


def _built(folder: Path) -> float:
    path = folder / manifests.MANIFEST
    return path.stat().st_mtime if path.exists() else 0.0


def undo_half_replacement(target: Path) -> None:
    """Restores the old index if a kill between the two renames of a replacement left it under its other name."""
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
