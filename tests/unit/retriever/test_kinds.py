"""Every index kind is built, converted to, opened and searched, and refused if it is damaged."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cli.main import main
from search_agent.types import Mode, Retrieval
from search_agent.world import index_named
from services.retriever import dense
from services.retriever import manifest as manifests
from services.retriever.build import Plan, build
from services.retriever.errors import BuildRefused, IndexRefused
from services.retriever.folders import convert
from services.retriever.index import Index
from services.retriever.kinds import FAISS, KINDS, VECTORS
from services.retriever.service import assemble
from services.retriever.settings import RetrieverSettings
from tests.unit.retriever.helpers import FakeEncoder, build_index, write_corpus

COUNT = 600
FLAT, FLAT_FP16, SQ8, IVF, IVF_PQ, HNSW = KINDS


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_index(tmp_path_factory.mktemp("flat"), COUNT, "flat")


@pytest.fixture(scope="module")
def ladder(flat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with an index of each kind, named after it."""
    out = tmp_path_factory.mktemp("ladder")
    for kind in KINDS:
        convert(flat, manifests.read(flat, True), KINDS[kind], kind, out, force=False)
    return out


def found(index: Index, vectors: np.ndarray, k: int) -> list[list[int]]:
    return [[row for row, _ in ranking] for ranking in index.dense(vectors, k)]


@pytest.mark.parametrize(
    ("kind", "recall"), [(FLAT, 1), (FLAT_FP16, 1), (SQ8, 0.9), (IVF, 0.7), (IVF_PQ, 0.3), (HNSW, 0.99)]
)
def test_each_rung_finds_what_flat_finds(ladder: Path, flat: Path, kind: str, recall: float) -> None:
    encoder = FakeEncoder()
    vectors = encoder.queries([f"question {n}" for n in range(20)])
    index = Index(ladder / kind)
    assert index.manifest.kind == kind
    wanted, got = found(Index(flat), vectors, 8), found(index, vectors, 8)
    assert np.mean([len({*a} & {*b}) / 8 for a, b in zip(wanted, got, strict=True)]) >= recall
    [alone] = index.dense(encoder.passages(["Title 7\ncommon word7 text"]), 3)
    assert alone[0][0] == 7
    assert [score for _, score in alone] == sorted((score for _, score in alone), reverse=True)
    assert {row for [ranking] in [index.dense(vectors[:1], 10_000)] for row, _ in ranking} <= {*range(COUNT)}
    assert index.bm25(["word7"], 3)[0][0][0] == 7


def test_smaller_rungs_are_smaller(ladder: Path) -> None:
    size = {kind: (ladder / kind / FAISS).stat().st_size for kind in KINDS}
    assert size[FLAT] > size[FLAT_FP16] > size[SQ8] > COUNT * 16
    assert size[HNSW] > size[FLAT_FP16]


def test_what_does_not_change_is_linked(ladder: Path, flat: Path) -> None:
    assert (ladder / SQ8 / "passages.bin").stat().st_ino == (flat / "passages.bin").stat().st_ino
    assert not (ladder / SQ8 / VECTORS).exists()


@pytest.mark.parametrize("kind", [FLAT_FP16, SQ8, IVF, IVF_PQ])
def test_the_same_vectors_give_the_same_version(ladder: Path, tmp_path: Path, kind: str) -> None:
    plan = Plan(write_corpus(tmp_path / "c.jsonl", COUNT), "built", tmp_path, "fake", KINDS[kind])
    built = build(plan, lambda _: FakeEncoder(), lambda _: None)
    assert manifests.read(built, True).version == manifests.read(ladder / kind, True).version
    assert {path.name for path in built.iterdir()} == {
        "bm25", FAISS, "manifest.json", "passages.bin", "passages.idx.npy"
    }  # fmt: skip


@pytest.mark.parametrize("source", [FLAT, FLAT_FP16, IVF, HNSW])
def test_any_exact_rung_can_be_converted(ladder: Path, flat: Path, tmp_path: Path, source: str) -> None:
    again = convert(ladder / source, manifests.read(ladder / source, True), KINDS[FLAT_FP16], "again", tmp_path, False)
    assert manifests.read(again, True).version == manifests.read(ladder / FLAT_FP16, True).version


def test_what_cannot_be_converted(ladder: Path, tmp_path: Path) -> None:
    def attempt(path: Path, name: str, out: Path) -> None:
        convert(path, manifests.read(path, True), KINDS[FLAT], name, out, force=True)

    with pytest.raises(BuildRefused, match="sq8 does not keep the vectors"):
        attempt(ladder / SQ8, "x", tmp_path)
    with pytest.raises(BuildRefused, match="cannot be converted onto itself"):
        attempt(ladder / FLAT, FLAT, ladder)
    words = build_index(tmp_path, 3, "words", dense=False)
    with pytest.raises(BuildRefused, match="has no vectors"):
        attempt(words, "x", tmp_path)


def reseal(folder: Path, **changes: object) -> None:
    """Changes the manifest, and makes its sizes, checksums and version fit the files."""
    fields = json.loads((folder / "manifest.json").read_text()) | changes
    entries = {name: manifests.describe(folder / name) for name in fields["files"]}
    fields["files"] = {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in entries.items()}
    fields["version"] = manifests.content_hash(
        entries, fields["encoder"], fields["kind"], fields["parameters"], fields["bm25_parameters"]
    )
    (folder / "manifest.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_faiss_s(ladder: Path, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(ladder / kind, tmp_path / kind)
    (folder / FAISS).write_bytes(b"no index at all, whatever its checksum says")
    with pytest.raises(IndexRefused, match=r"vectors\.faiss: \d+ bytes, but manifest"):
        Index(folder)
    reseal(folder)
    with pytest.raises(IndexRefused, match=r"vectors\.faiss: unreadable"):
        Index(folder)


@pytest.mark.parametrize(
    ("kind", "other"),
    [(FLAT, SQ8), (FLAT_FP16, SQ8), (SQ8, HNSW), (IVF, IVF_PQ), (IVF_PQ, IVF), (HNSW, FLAT)],
)
def test_a_rung_under_another_s_name(ladder: Path, tmp_path: Path, kind: str, other: str) -> None:
    folder = shutil.copytree(ladder / kind, tmp_path / kind)
    shutil.copy(ladder / other / FAISS, folder / FAISS)
    reseal(folder)
    with pytest.raises(IndexRefused, match=f"a FAISS Index.*, not {kind}"):
        Index(folder)


def test_vectors_of_another_corpus(ladder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ladder / SQ8, tmp_path / SQ8)
    rows = np.eye(16, dtype=np.float32)
    dense.write(rows, KINDS[SQ8], {}, folder / FAISS)
    reseal(folder)
    with pytest.raises(IndexRefused, match="16 vectors of 16, not 600 of 16"):
        Index(folder)


def test_a_metric_that_is_not_the_inner_product(ladder: Path, tmp_path: Path) -> None:
    import faiss

    folder = shutil.copytree(ladder / FLAT, tmp_path / FLAT)
    l2 = faiss.IndexFlatL2(16)
    l2.add(np.eye(COUNT, 16, dtype=np.float32))
    faiss.write_index(l2, str(folder / FAISS))
    reseal(folder)
    with pytest.raises(IndexRefused, match="its metric is not the inner product"):
        Index(folder)


@pytest.mark.parametrize("parameters", [{}, {"nlist": 1}, {"nlist": 15, "nprobe": -1, "m": 4, "nbits": 8}])
def test_parameters_that_do_not_fit_the_kind(ladder: Path, tmp_path: Path, parameters: dict[str, int]) -> None:
    folder = shutil.copytree(ladder / IVF_PQ, tmp_path / IVF_PQ)
    reseal(folder, parameters=parameters)
    with pytest.raises(IndexRefused, match="has the parameters"):
        Index(folder)


def test_the_version_changes_with_how_it_is_searched(ladder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ladder / HNSW, tmp_path / HNSW)
    before = manifests.read(folder, True)
    reseal(folder, parameters={**before.parameters, "ef_search": 16})
    assert manifests.read(folder, True).version != before.version


@pytest.mark.parametrize(("count", "dim"), [(1, 1), (40, 16), (12_990, 384), (1_000_000, 768), (21_015_324, 768)])
def test_parameters_fit_the_corpus(count: int, dim: int) -> None:
    made = KINDS[IVF_PQ].parameters(count, dim)
    assert 1 <= made["nprobe"] <= made["nlist"] <= count
    assert dim % made["m"] == 0
    assert 2 ** made["nbits"] <= max(2, count)
    for kind in KINDS.values():
        kind.check(kind.parameters(count, dim))


async def test_indexes_of_several_kinds_and_encoders_are_served_together(ladder: Path, tmp_path: Path) -> None:
    for kind in (SQ8, HNSW):
        shutil.copytree(ladder / kind, tmp_path / kind)
    build_index(tmp_path, 30, "other", FakeEncoder("wide", dim=24))
    encoders = {"fake": FakeEncoder(), "wide": FakeEncoder("wide", dim=24)}
    retriever = assemble(
        RetrieverSettings(indexes=tmp_path, default_index=SQ8), lambda manifest: encoders[manifest.encoder]
    )
    text = "Title 7\ncommon word7 text"
    asked = [(name, mode) for name in ("", SQ8, HNSW, "other") for mode in (Mode.DENSE, Mode.BM25, Mode.HYBRID)]
    answers = await asyncio.gather(*(retriever.search([text], Retrieval(4, name, mode)) for name, mode in asked))
    assert [ranked[0].id for [ranked] in answers] == ["p7"] * len(asked)
    assert {len(batch) for batch in encoders["wide"].query_batches} == {1}
    other = index_named(await retriever.indexes(), "other")
    assert (other.kind, other.encoder, other.dim) == (FLAT, "wide", 24)
    await retriever.close()


def test_convert_from_the_command_line(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["index", "convert", str(flat), "--kind", HNSW, "--name", "graph", "--out", str(tmp_path)]
    assert main(command) == 0
    assert "hnsw m=32 ef_construction=80 ef_search=128" in capsys.readouterr().out
    assert main(command) == 1
    assert "graph exists; --force replaces it" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
