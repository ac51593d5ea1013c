"""manifest.json: describes an index, and proves that its files are whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from search_agent.types import Mode
from services.retriever import bm25, kinds, passages
from services.retriever.columns import COLUMNS
from services.retriever.errors import IndexRefused
from services.retriever.prefixes import unrecorded

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

    `kind` and `parameters` belong to kinds.py, `bm25` and `bm25_parameters` to bm25.py. `encoder_parameters` are those
    of the encoder that read the passages; older indexes record none. `folders.seal` fills in
    `files`, `modes` and `version`.
    """

    name: str
    encoder: str
    dim: int
    count: int
    source: str = ""
    licence: str = ""
    kind: str = kinds.FLAT.name
    parameters: Mapping[str, int] = field(default_factory=dict)
    bm25: str = bm25.BM25S.name
    bm25_parameters: Mapping[str, str] = field(default_factory=dict)
    encoder_parameters: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    modes: tuple[Mode, ...] = ()
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def vectors(self) -> str:
        """The file that holds the vectors, of those in which its kind may have them."""
        names = kinds.KINDS[self.kind].files
        return next((name for name in names if name in self.files), names[0])

    @property
    def prefixes(self) -> Mapping[str, str]:
        """The text that its encoder reads before queries and passages."""
        return self.encoder_parameters or unrecorded(self.encoder)

    @property
    def encoding(self) -> tuple[str, ...]:
        """Identifies the encoder and its prefixes: indexes with the same value can share one encoder."""
        return (self.encoder, *(f"{name}={value}" for name, value in sorted(self.prefixes.items())))


def content_hash(files: Mapping[str, FileEntry], encoder: str, kind: str, *parameters: Mapping[str, object]) -> str:
    """Returns 16 hex digits that change with what an index holds and how it is searched, not with its name or age."""
    parts: list[object] = [kind, encoder, sorted((name, entry.sha256) for name, entry in files.items())]
    parts += [dict(given) for given in parameters if given]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def version_of(manifest: Manifest) -> str:
    """Returns the content hash that belongs to a manifest."""
    return content_hash(
        manifest.files, manifest.encoder, manifest.kind,
        manifest.parameters, manifest.bm25_parameters, manifest.encoder_parameters,
    )  # fmt: skip


def modes_of(has_dense: bool, has_bm25: bool) -> tuple[Mode, ...]:
    """Returns the modes of an index; the first is what it is asked in by default."""
    dense_modes = (Mode.DENSE,) if has_dense else ()
    bm25_modes = (Mode.BM25,) if has_bm25 else ()
    return dense_modes + bm25_modes + ((Mode.HYBRID,) if has_dense and has_bm25 else ())


def file_names(vectors: str, backend: str, present: Iterable[str]) -> frozenset[str]:
    """Returns the files, beside the manifest, of an index whose `vectors` lie in that file (empty: it has none)."""
    present = [*present]
    if passages.BLOBS not in present:
        return frozenset()  # of an index without passages
    names = {passages.BLOBS, passages.OFFSETS, vectors} | bm25.BACKENDS[backend].files(present)
    return frozenset(names - {""}) | {COLUMNS}.intersection(present)


def describe(path: Path) -> FileEntry:
    """Returns the size and checksum of a file, which it reads in full."""
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def write(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path, verify_checksums: bool) -> Manifest:
    """Returns the manifest of an index whose files have the sizes, and if asked the checksums, that it states.

    Raises IndexRefused.
    """
    path = folder / MANIFEST
    manifest = _parse(path)
    try:
        kinds.named(manifest.kind).check(manifest.parameters)
        bm25.named(manifest.bm25).check(manifest.bm25_parameters)
    except ValueError as error:
        raise IndexRefused(path, str(error)) from None
    if not NAME.fullmatch(manifest.name):
        raise IndexRefused(path, f"bad name {manifest.name!r}")
    has_dense = Mode.DENSE in manifest.modes
    if not manifest.modes or manifest.modes != modes_of(has_dense, bool(manifest.bm25)):
        raise IndexRefused(path, f"unknown set of modes {[*manifest.modes]} with BM25 by {manifest.bm25!r}")
    if (
        manifest.count < 0
        or (manifest.count == 0) != (not manifest.files)
        or has_dense != (manifest.dim > 0)
        or has_dense != bool(manifest.encoder)
    ):
        raise IndexRefused(path, "dim, encoder and modes do not fit each other")
    names = file_names(manifest.vectors if has_dense else "", manifest.bm25, manifest.files)
    if manifest.files.keys() != names:
        raise IndexRefused(path, f"must list exactly {', '.join(sorted(names))}")
    if manifest.version != version_of(manifest):
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
    except (FileNotFoundError, NotADirectoryError):
        raise IndexRefused(path.parent, f"no index there: it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError) as error:
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
    texts = (manifest.bm25_parameters, manifest.encoder_parameters)
    typed += [(given, dict) for given in (manifest.parameters, *texts)]
    typed += [(value, str) for given in texts if isinstance(given, dict) for value in given.values()]
    typed += [(entry.bytes, int) for entry in files.values()]
    typed += [(entry.sha256, str) for entry in files.values()]
    if not all(isinstance(value, kind) for value, kind in typed):
        raise IndexRefused(path, "not a manifest: a field has the wrong type")
    return manifest
