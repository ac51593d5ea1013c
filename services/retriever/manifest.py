"""manifest.json: what an index is made of, and the proof that its files are whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from search_agent.types import Mode
from services.retriever import bm25, dense, kinds, lexical, lucene, passages
from services.retriever.errors import IndexRefused

MANIFEST = "manifest.json"
FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files` are paths inside the index folder. `encoder` is empty and `dim` 0 where `modes` lacks DENSE.

    `kind` and its `parameters` are a rung of kinds.py; `bm25` is a backend of bm25.py.
    """

    name: str
    version: str
    encoder: str
    dim: int
    count: int
    modes: tuple[Mode, ...]
    source: str
    licence: str
    files: Mapping[str, FileEntry]
    kind: str = kinds.FLAT
    format: int = FORMAT
    parameters: Mapping[str, int] = field(default_factory=dict)
    bm25: str = bm25.BM25S

    @property
    def vectors(self) -> str:
        """The file that holds the vectors."""
        return dense.FAISS if self.kind != kinds.FLAT or dense.FAISS in self.files else dense.VECTORS


def content_hash(
    files: Mapping[str, FileEntry], encoder: str, kind: str, parameters: Mapping[str, int] | None = None
) -> str:
    """16 hex digits that change with what an index holds and how it is searched, not with its name or age."""
    parts: list[object] = [kind, encoder, sorted((name, entry.sha256) for name, entry in files.items())]
    if parameters:
        parts.append(dict(parameters))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def modes_of(has_dense: bool, has_bm25: bool = True) -> tuple[Mode, ...]:
    dense_modes = (Mode.DENSE,) if has_dense else ()
    bm25_modes = (Mode.BM25,) if has_bm25 else ()
    return dense_modes + bm25_modes + ((Mode.HYBRID,) if has_dense and has_bm25 else ())


def file_names(vectors: str = dense.VECTORS, backend: str = bm25.BM25S) -> frozenset[str]:
    """The files, beside the manifest, of an index with these; Lucene's, whose names vary, left out."""
    names = {passages.BLOBS, passages.OFFSETS, vectors, *(lexical.FILES if backend == bm25.BM25S else ())}
    return frozenset(names - {""})


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
    try:
        kinds.check(manifest.kind, dict(manifest.parameters))
    except ValueError as error:
        raise IndexRefused(path, str(error)) from None
    if not NAME.fullmatch(manifest.name):
        raise IndexRefused(path, f"bad name {manifest.name!r}")
    has_dense = Mode.DENSE in manifest.modes
    if manifest.bm25 not in bm25.BACKENDS or manifest.modes != modes_of(has_dense, bool(manifest.bm25)):
        raise IndexRefused(path, f"unknown set of modes {[*manifest.modes]} with BM25 by {manifest.bm25!r}")
    if manifest.count < 1 or has_dense != (manifest.dim > 0) or has_dense != bool(manifest.encoder):
        raise IndexRefused(path, "count, dim, encoder and modes do not fit each other")
    names = file_names(manifest.vectors if has_dense else "", manifest.bm25)
    own = {name for name in manifest.files if manifest.bm25 == bm25.LUCENE and lucene.FILE.fullmatch(name)}
    if manifest.files.keys() - own != names or (manifest.bm25 == bm25.LUCENE) != bool(own):
        raise IndexRefused(path, f"must list exactly {', '.join(sorted(names))}" + " and Lucene's" * bool(own))
    if manifest.version != content_hash(manifest.files, manifest.encoder, manifest.kind, manifest.parameters):
        raise IndexRefused(path, "version does not fit files, encoder, kind and parameters")
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
    strings = ("name", "version", "encoder", "source", "licence", "kind", "bm25")
    typed += [(getattr(manifest, name), str) for name in strings]
    typed += [(manifest.parameters, dict)]
    typed += [(entry.bytes, int) for entry in files.values()]
    typed += [(entry.sha256, str) for entry in files.values()]
    if not all(isinstance(value, kind) for value, kind in typed):
        raise IndexRefused(path, "not a manifest: a field has the wrong type")
    return manifest
