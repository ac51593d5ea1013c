"""A damaged index is refused; the message names the file and the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.retriever import manifest as manifests
from services.retriever.errors import IndexRefused
from services.retriever.index import Index, open_indexes
from services.retriever.kinds import VECTORS
from services.retriever.manifest import MANIFEST, content_hash, describe, file_names
from services.retriever.passages import BLOBS
from tests.unit.retriever.helpers import build_index

FILES = sorted(file_names(VECTORS, "bm25s", ()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_index(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def index(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "small")


def edit(index: Path, change: Callable[[dict[str, Any]], object], reseal: bool = False) -> None:
    """Changes the manifest; `reseal` also makes its sizes, checksums and version fit the files."""
    fields = json.loads((index / MANIFEST).read_text())
    change(fields)
    if reseal:
        entries = {name: describe(index / name) for name in fields["files"]}
        fields["files"] = {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in entries.items()}
        fields["version"] = content_hash(entries, fields["encoder"], fields["kind"], fields["bm25_parameters"])
    (index / MANIFEST).write_text(json.dumps(fields))


def test_the_whole_one_opens(index: Path) -> None:
    assert Index(index).manifest.count == 40


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte(index: Path, name: str) -> None:
    content = bytearray((index / name).read_bytes())
    content[len(content) // 2] ^= 1
    (index / name).write_bytes(content)
    with pytest.raises(IndexRefused, match=f"small/{name}: damaged: its SHA-256 is not the one"):
        Index(index)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file(index: Path, name: str) -> None:
    size = (index / name).stat().st_size
    with (index / name).open("r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(IndexRefused, match=f"small/{name}: {size - 1} bytes, but manifest.json says {size}"):
        Index(index, verify_checksums=False)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(index: Path, name: str) -> None:
    (index / name).unlink()
    with pytest.raises(IndexRefused, match=f"small/{name}: missing"):
        Index(index)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(format=2), "format 2 is not supported, only 1"),
        (lambda m: m.update(kind="tree"), "kind 'tree' is not supported"),
        (lambda m: m.update(name="../up"), "bad name"),
        (lambda m: m.update(version="0" * 16), "version does not fit"),
        (lambda m: m.update(encoder="other"), "version does not fit"),
        (lambda m: m.update(dim=17), r"float16 \(40, 16\), not float16 \(40, 17\)"),
        (lambda m: m.update(count=41), "count is 41, but 40 passages are stored"),
        (lambda m: m.update(count="40"), "wrong type|not a manifest"),
        (lambda m: m.update(modes=["bm25"]), "do not fit each other"),
        (lambda m: m.update(modes=["dense", "sparse"]), "not a manifest"),
        (lambda m: m.update(modes=["dense"]), "unknown set of modes"),
        (lambda m: m.update(extra=1), "not a manifest"),
        (lambda m: m.pop("dim"), "not a manifest"),
        (lambda m: m["files"].pop(VECTORS), "must list exactly"),
        (lambda m: m["files"].update({"../../x": {"bytes": 1, "sha256": ""}}), "must list exactly"),
        (lambda m: m["files"][VECTORS].update(sha256="0" * 64), "version does not fit"),
        (lambda m: m["files"][VECTORS].update(bytes=5), "bytes, but manifest.json says 5"),
    ],
)
def test_an_edited_manifest(index: Path, change: Callable[[dict[str, Any]], object], reason: str) -> None:
    edit(index, change)
    with pytest.raises(IndexRefused, match=reason):
        Index(index)


def test_a_manifest_that_is_not_json(index: Path) -> None:
    (index / MANIFEST).write_text("{")
    with pytest.raises(IndexRefused, match=r"manifest\.json: unreadable"):
        Index(index)


def test_files_of_another_corpus_with_true_checksums(index: Path, tmp_path: Path) -> None:
    other = build_index(tmp_path / "other", count=30)
    for name in (BLOBS, "passages.idx.npy"):
        shutil.copy(other / name, index / name)
    edit(index, lambda m: None, reseal=True)
    with pytest.raises(IndexRefused, match="count is 40, but 30 passages are stored"):
        Index(index)


def test_bm25_of_another_corpus_with_true_checksums(index: Path, tmp_path: Path) -> None:
    other = build_index(tmp_path / "other", count=30)
    shutil.copytree(other / "bm25", index / "bm25", dirs_exist_ok=True)
    edit(index, lambda m: None, reseal=True)
    with pytest.raises(IndexRefused, match="small/bm25: indexes 30 passages, not 40"):
        Index(index)


def test_vectors_of_another_type_with_true_checksums(index: Path) -> None:
    np.save(index / VECTORS, np.load(index / VECTORS).astype(np.float32))
    edit(index, lambda m: None, reseal=True)
    with pytest.raises(IndexRefused, match=r"vectors\.npy: float32 \(40, 16\), not float16"):
        Index(index)


def test_the_version_is_of_the_content_not_of_the_name(whole: Path, tmp_path: Path) -> None:
    again = build_index(tmp_path / "a", name="renamed")
    other = build_index(tmp_path / "b", count=41)
    versions = [manifests.read(path, True).version for path in (whole, again, other)]
    assert versions[0] == versions[1] != versions[2]


def test_a_folder_of_indexes(whole: Path, tmp_path: Path) -> None:
    for name in ("small", "wip.building", "before.old"):
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").touch()
    indexes, _, others = open_indexes(tmp_path)
    assert [*indexes] == ["small"]
    assert others == [tmp_path / "notes"]
    shutil.copytree(whole, tmp_path / "twin")
    with pytest.raises(IndexRefused, match="twin: a second index called 'small'"):
        open_indexes(tmp_path)


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(IndexRefused, match="holds no index"):
        open_indexes(tmp_path)
    with pytest.raises(IndexRefused, match="no such folder"):
        open_indexes(tmp_path / "gone")
