"""manifest.json: what an index is made of, and the proof that its files are whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from search_agent.types import Mode
from services.retriever import lexical, passages
from services.retriever.errors import IndexRefused

MANIFEST = "manifest.json"
VECTORS = "vectors.npy"
FORMAT = 1
KIND = "flat"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files` are paths inside the index folder. `encoder` is empty and `dim` 0 where `modes` lacks DENSE."""

    name: str
    version: str
    encoder: str
    dim: int
    count: int
    modes: tuple[Mode, ...]
    source: str
    licence: str
    files: Mapping[str, FileEntry]
    kind: str = KIND
    format: int = FORMAT


def content_hash(files: Mapping[str, FileEntry], encoder: str, kind: str) -> str:
    """16 hex digits that change with what an index holds, and not with its name or age."""
    parts = [kind, encoder, sorted((name, entry.sha256) for name, entry in files.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def modes_of(dense: bool) -> tuple[Mode, ...]:
    return (Mode.DENSE, Mode.BM25, Mode.HYBRID) if dense else (Mode.BM25,)


def file_names(modes: tuple[Mode, ...]) -> frozenset[str]:
    """The files, beside the manifest, of an index with these modes."""
    dense = {VECTORS} if Mode.DENSE in modes else set()
    return frozenset({passages.BLOBS, passages.OFFSETS, *lexical.FILES} | dense)


def describe(path: Path) -> FileEntry:
    """Reads a file in full."""
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def write(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n")


def read(folder: Path, verify_checksums: bool) -> Manifest:
    """The manifest of an index whose files have the sizes, and if asked the checksums, that it states.

    Raises IndexRefused.
    """
    path = folder / MANIFEST
    manifest = _parse(path)
    if manifest.kind != KIND:
        raise IndexRefused(path, f"kind {manifest.kind!r} is not supported, only {KIND!r}")
    if not NAME.fullmatch(manifest.name):
        raise IndexRefused(path, f"bad name {manifest.name!r}")
    if manifest.modes not in (modes_of(True), modes_of(False)):
        raise IndexRefused(path, f"unknown set of modes {[*manifest.modes]}")
    dense = Mode.DENSE in manifest.modes
    if manifest.count < 1 or dense != (manifest.dim > 0) or dense != bool(manifest.encoder):
        raise IndexRefused(path, "count, dim, encoder and modes do not fit each other")
    if manifest.files.keys() != file_names(manifest.modes):
        raise IndexRefused(path, f"must list exactly {', '.join(sorted(file_names(manifest.modes)))}")
    if manifest.version != content_hash(manifest.files, manifest.encoder, manifest.kind):
        raise IndexRefused(path, "version does not fit files, encoder and kind")
    for name, entry in manifest.files.items():
        _check(folder / name, entry, verify_checksums)
    return manifest


def _check(path: Path, entry: FileEntry, verify_checksum: bool) -> None:
    if not path.is_file():
        raise IndexRefused(path, "missing")
    size = path.stat().st_size
    if size != entry.bytes:
        raise IndexRefused(path, f"{size} bytes, but {MANIFEST} says {entry.bytes}")
    if verify_checksum and describe(path).sha256 != entry.sha256:
        raise IndexRefused(path, f"damaged: its SHA-256 is not the one in {MANIFEST}")


def _parse(path: Path) -> Manifest:
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IndexRefused(path, f"unreadable: {error}") from error
    try:
        if fields["format"] != FORMAT:
            raise IndexRefused(path, f"format {fields['format']} is not supported, only {FORMAT}")
        files = {name: FileEntry(**entry) for name, entry in fields["files"].items()}
        modes = tuple(Mode(mode) for mode in fields["modes"])
        manifest = Manifest(**{**fields, "files": files, "modes": modes})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IndexRefused(path, f"not a manifest: {error!r}") from error
    typed: list[tuple[object, type]] = [(manifest.dim, int), (manifest.count, int)]
    typed += [(getattr(manifest, name), str) for name in ("name", "version", "encoder", "source", "licence")]
    typed += [(entry.bytes, int) for entry in files.values()]
    typed += [(entry.sha256, str) for entry in files.values()]
    if not all(isinstance(value, kind) for value, kind in typed):
        raise IndexRefused(path, "not a manifest: a field has the wrong type")
    return manifest
