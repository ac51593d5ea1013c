"""BM25 by Lucene. Tests that need the JVM run where pyserini is installed, which no development lock does."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from search_agent.types import Mode
from services.retriever import manifest as manifests
from services.retriever.bm25 import BACKENDS
from services.retriever.build import Plan, build
from services.retriever.errors import BuildRefused, IndexRefused, LibraryMissing
from services.retriever.folders import convert
from services.retriever.index import Index
from services.retriever.kinds import KINDS
from tests.unit.retriever.helpers import FakeEncoder, write_corpus

installed = importlib.util.find_spec("pyserini") is not None
needs_lucene = pytest.mark.skipif(not installed, reason="pyserini is not installed")


def make(tmp_path: Path, backend: str, encoder: str = "fake") -> Path:
    plan = Plan(write_corpus(tmp_path / "c.jsonl", 40), f"with-{backend}", tmp_path, encoder, bm25=BACKENDS[backend])
    return build(plan, lambda _: FakeEncoder(), lambda _: None)


@pytest.mark.skipif(installed, reason="pyserini is installed")
def test_a_missing_library_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LibraryMissing, match=r"pip install pyjnius && pip install --no-deps pyserini==0.22.1, or the"):
        make(tmp_path, "lucene")


@needs_lucene
def test_lucene_is_built_converted_and_searched(tmp_path: Path) -> None:
    folder = make(tmp_path, "lucene")
    manifest = manifests.read(folder, verify_checksums=True)
    assert manifest.bm25 == "lucene"
    assert any(name.startswith("lucene/segments_") for name in manifest.files)
    assert not any(name.startswith("bm25/") for name in manifest.files)
    small = convert(folder, manifest, KINDS["sq8"], "small", tmp_path, False)
    for path in (folder, small):
        found = Index(path).bm25(["word7 WORDS", "common", "zebra", "the", "?!", 'a "b" AND (c:'], 50)
        assert [row for row, _ in found[0]] == [7]
        assert [row for row, _ in found[1]] == [*range(40)]
        assert found[2:] == [[], [], [], []]


@needs_lucene
def test_lucene_that_is_damaged_or_of_another_corpus(tmp_path: Path) -> None:
    folder = make(tmp_path, "lucene")
    fields = json.loads((folder / "manifest.json").read_text())
    segments = next(name for name in fields["files"] if name.startswith("lucene/segments_"))
    whole = (folder / segments).read_bytes()
    (folder / segments).write_bytes(whole[:-1] + b"x")
    with pytest.raises(IndexRefused, match="damaged: its SHA-256"):
        Index(folder)
    with pytest.raises(IndexRefused, match=r"lucene: unreadable: .*Corrupt"):
        Index(folder, verify_checksums=False)
    (folder / segments).unlink()
    with pytest.raises(IndexRefused, match="missing"):
        Index(folder, verify_checksums=False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bm25": "lucene"}, "lucene has no parameters"),
        ({"bm25": "lucene", "bm25_parameters": {}}, "must list exactly"),
        ({"bm25": "solr"}, "BM25 by 'solr' is not supported"),
        ({"bm25": "", "bm25_parameters": {}}, "unknown set of modes"),
        ({"bm25_parameters": {"tokenizer": "greek"}}, "bm25s has a tokenizer"),
        ({"bm25_parameters": {"stemmer": "porter"}}, "bm25s has a tokenizer"),
        ({"bm25_parameters": {}}, "version does not fit"),
        ({"bm25": 1}, "wrong type"),
    ],
)
def test_a_manifest_with_another_backend(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    folder = make(tmp_path, "bm25s")
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(IndexRefused, match=reason):
        Index(folder)


def test_an_index_without_bm25(tmp_path: Path) -> None:
    folder = make(tmp_path, "")
    index = Index(folder)
    assert index.manifest.modes == (Mode.DENSE,)
    assert {path.name for path in folder.iterdir()} == {
        "vectors.npy", "manifest.json", "passages.bin", "passages.idx.npy"
    }  # fmt: skip
    with pytest.raises(BuildRefused, match="nothing to search with"):
        make(tmp_path, "", encoder="")
    shutil.rmtree(folder)
