"""Builds an index folder from a corpus. A build that was killed resumes where it stopped."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from tqdm import tqdm

from common.corpus import BadRecord, corpus_files, read_corpus
from search_agent.types import Passage
from services.retriever import bm25, dense, folders, kinds
from services.retriever import manifest as manifests
from services.retriever.bm25 import Backend
from services.retriever.encoders import Encoder
from services.retriever.errors import BuildRefused
from services.retriever.kinds import Kind
from services.retriever.manifest import Manifest
from services.retriever.passages import BLOBS, PassageStore, PassageWriter, embedded_text

_ENCODED_AT_ONCE = 2  # batches: the next is prepared while one is encoded
_PROGRESS = "vectors.json"  # says which corpus and encoder the vectors of an unfinished build belong to
_SHOWN = 5  # skipped lines, or files passed over, named one by one

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Plan:
    """An index to build. `vectors` is a .npy file of (passages, dim) vectors to take instead of encoding.

    `kind` is "flat" without an encoder.
    """

    corpus: Path
    name: str
    out: Path
    encoder: str  # empty: no vectors, BM25 only
    kind: Kind = kinds.FLAT
    bm25: Backend = bm25.BM25S
    source: str = ""
    licence: str = ""
    on_error: Literal["stop", "skip"] = "stop"
    vectors: Path | None = None
    part: tuple[int, int] = (1, 1)  # (i, n): every n-th passage from the i-th on, and its vector
    force: bool = False  # replace an index of that name


@dataclass(slots=True)
class Skipped:
    """The number of bad records, and the first few of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, bad: BadRecord) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(str(bad))


def build(plan: Plan, load: Callable[[str], Encoder], say: Callable[[str], None]) -> Path:
    """Builds the index and returns its folder. `load` makes the encoder; `say` gets lines for people.

    Raises BadRecord, BuildRefused or EncoderUnavailable. Until the end everything happens in
    `out`/NAME.building, which stays after a failure so that the next build can use its vectors.
    """
    try:
        plan.source.encode()
        plan.licence.encode()
    except UnicodeEncodeError:
        raise BuildRefused("--source and --licence must be UTF-8") from None
    if not plan.encoder and plan.kind is not kinds.FLAT:
        raise BuildRefused(f"--kind {plan.kind.name} is a way to store vectors, and --no-dense makes none")
    if not plan.encoder and plan.bm25 is bm25.NONE:
        raise BuildRefused("--no-dense with --bm25 none leaves nothing to search with")
    with folders.new_index(plan.out, plan.name, plan.force) as work:
        _, others = corpus_files(plan.corpus)
        if others:
            say(f"passed over {len(others)} in {plan.corpus}, not JSON files: {', '.join(map(str, others[:_SHOWN]))}")
        skipped = store_passages(plan.corpus, plan.on_error, work, plan.part)
        store = PassageStore(work)
        encoder = load(plan.encoder) if plan.encoder else None
        parameters: dict[str, int] = {}
        vectors = ""
        if encoder:
            _say_prefixes(encoder, say)
            if plan.vectors:
                _copy_vectors(plan.vectors, plan.part, encoder, store, work / kinds.VECTORS, skipped.count)
            else:
                _encode(encoder, store, work, say)
            vectors = plan.kind.files[0]
            if vectors != kinds.VECTORS:
                parameters = plan.kind.parameters(len(store), encoder.dim)
                rows = dense.Stored(work / kinds.VECTORS, kinds.FLAT, len(store), encoder.dim)
                say(f"building {plan.kind.name} {parameters or ''}".rstrip())
                dense.write(rows, plan.kind, parameters, work / vectors)
        index_words(plan.bm25, store, work)
        manifest = Manifest(
            plan.name, encoder.name if encoder else "", encoder.dim if encoder else 0, len(store), plan.source,
            plan.licence, plan.kind.name, parameters, plan.bm25.name, plan.bm25.parameters,
            encoder.parameters if encoder else {},
        )  # fmt: skip
        folders.seal(work, manifest, vectors)
    if skipped.count:
        say(f"bad records skipped: {skipped.count}")
        for line in skipped.first:
            say(f"  {line}")
    return plan.out / plan.name


def _say_prefixes(encoder: Encoder, say: Callable[[str], None]) -> None:
    for name, text in encoder.parameters.items():
        say(f"{name.replace('_', ' ')} of {encoder.name}: {text!r}")
    if encoder.parameters and not any(encoder.parameters.values()):
        say(
            f"warning: neither its configuration nor its name gives {encoder.name} a prefix; "
            "--query-prefix and --passage-prefix do"
        )


def index_words(backend: Backend, store: PassageStore, work: Path) -> None:
    """Writes the BM25 index of all passages."""
    backend.build(tqdm(map(embedded_text, store), "BM25", total=len(store), unit=" passages", disable=None), work)


def store_passages(
    corpus: Path, on_error: Literal["stop", "skip"], work: Path, part: tuple[int, int] = (1, 1)
) -> Skipped:
    """Writes the passages of (part i of n of) a corpus into `work`. Raises BadRecord, or BuildRefused without any."""
    skipped = Skipped()

    def on_bad(bad: BadRecord) -> None:
        if on_error == "stop":
            raise bad
        skipped.add(bad)

    count = 0
    with PassageWriter(work) as writer:
        passages = _part(read_corpus(corpus, on_bad), part)
        for count, passage in enumerate(tqdm(passages, "read", unit=" passages", disable=None), start=1):  # noqa: B007
            writer.add(passage)
    if not count:
        raise BuildRefused(f"{corpus}: no passages{_of(part)}" + (f"; {skipped.first[0]}" if skipped.first else ""))
    return skipped


def _part(passages: Iterable[Passage], part: tuple[int, int]) -> Iterator[Passage]:
    """Yields part i of n, which has every n-th passage. All passages are read, so that ids are unique across parts."""
    number, parts = part
    return (passage for row, passage in enumerate(passages) if row % parts == number - 1)


def _of(part: tuple[int, int]) -> str:
    return "" if part == (1, 1) else " in part {}/{}".format(*part)


def _encode(encoder: Encoder, store: PassageStore, work: Path, say: Callable[[str], None]) -> None:
    """Appends vectors batch by batch to a .npy file whose header already states the final shape."""
    path = work / kinds.VECTORS
    owner = {
        "passages": manifests.describe(work / BLOBS).sha256,
        "encoder": encoder.name,
        **encoder.parameters,
        "dim": encoder.dim,
    }
    done = _resumable(work, owner, encoder.at_once, say)
    with path.open("r+b" if done else "wb") as file:
        shape = (len(store), encoder.dim)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        header = file.tell()
        if not done:
            (work / _PROGRESS).write_text(json.dumps(owner))
        file.truncate(header + done * encoder.dim * 2)
        file.seek(0, os.SEEK_END)
        passages = store.iterate(done)
        batches = iter(lambda: [embedded_text(passage) for passage in islice(passages, encoder.at_once)], [])
        with tqdm(desc="encode", initial=done, total=len(store), unit=" passages", disable=None) as progress:
            for vectors in _in_order(encoder.passages, batches, _ENCODED_AT_ONCE):
                file.write(vectors.astype("<f2").tobytes())
                file.flush()
                os.fsync(file.fileno())
                progress.update(len(vectors))


def _in_order(work: Callable[[Item], Result], items: Iterable[Item], at_once: int) -> Iterator[Result]:
    """Yields the results of `work` in the items' order; `at_once` of them run in threads."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _resumable(work: Path, owner: dict[str, object], batch: int, say: Callable[[str], None]) -> int:
    """Returns how many rows of vectors of an earlier build can be kept: whole batches only."""
    try:
        earlier = json.loads((work / _PROGRESS).read_text())
        with (work / kinds.VECTORS).open("rb") as file:
            np.lib.format.read_magic(file)
            (rows, dim), _, _ = np.lib.format.read_array_header_1_0(file)
            written = (work / kinds.VECTORS).stat().st_size - file.tell()
    except (OSError, ValueError):
        return 0
    if earlier != owner:
        say("the unfinished build was of another corpus or encoder: encoding starts over")
        return 0
    done: int = written // (dim * 2)
    done = rows if done >= rows else done - done % batch
    if done:
        say(f"resuming an unfinished build: {done} of {rows} passages are encoded")
    return done


def _copy_vectors(
    given: Path, part: tuple[int, int], encoder: Encoder, store: PassageStore, path: Path, skipped: int
) -> None:
    """Takes vectors of all passages that were made elsewhere, after comparing a few of them with the encoder's own."""
    try:
        vectors = np.load(given, mmap_mode="r")
    except OSError as error:
        raise BuildRefused(f"{given}: {error.strerror}") from error
    except (ValueError, EOFError) as error:
        raise BuildRefused(f"{given}: not a .npy file: {error}") from error
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise BuildRefused(f"{given}: {vectors.dtype} {vectors.shape}, not a table of floats")
    vectors = vectors[part[0] - 1 :: part[1]]
    if len(vectors) != len(store):
        reason = f"{len(vectors)} vectors for {len(store)} passages{_of(part)}"
        raise BuildRefused(f"{given}: {reason}" + (f", {skipped} records were skipped" if skipped else ""))
    if vectors.shape[1] != encoder.dim:
        raise BuildRefused(f"{given}: {vectors.shape[1]} dimensions, {encoder.name} has {encoder.dim}")
    sample = sorted({0, len(store) // 2, len(store) - 1})
    passages = store.get(sample)
    wanted = encoder.passages([embedded_text(passages[row]) for row in sample])
    for row, vector in zip(sample, wanted, strict=True):
        if not float(vector @ vectors[row].astype(np.float32)) > 0.98:
            raise BuildRefused(f"{given}: row {row} is not the vector that {encoder.name} makes of that passage")
    copy = dense.new_rows(path, *vectors.shape)
    for start in range(0, len(vectors), 65_536):
        chunk = vectors[start : start + 65_536].astype(np.float32)
        lengths = np.linalg.norm(chunk, axis=1)
        if not (np.abs(lengths - 1) < 0.01).all():
            bad = start + int(np.argmin(np.abs(lengths - 1) < 0.01))
            raise BuildRefused(f"{given}: row {bad} is not of length 1")
        copy[start : start + 65_536] = chunk
    copy.flush()
