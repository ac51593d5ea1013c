from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.corpus import BadRecord
from search_agent.types import Mode
from services.retriever import manifest as manifests
from services.retriever.build import Plan, build
from services.retriever.errors import BuildRefused
from services.retriever.index import Index
from services.retriever.kinds import VECTORS
from services.retriever.manifest import MANIFEST
from tests.unit.retriever.helpers import FakeEncoder, build_index, write_corpus
from tests.waiting import LIMIT_S


def run(plan: Plan, encoder: FakeEncoder | None = None) -> tuple[Path, list[str]]:
    said: list[str] = []
    made = encoder or FakeEncoder()
    return build(plan, lambda _: made, said.append), said


def plan(tmp_path: Path, count: int = 20) -> Plan:
    return Plan(write_corpus(tmp_path / "c.jsonl", count), "built", tmp_path / "out", "fake")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


def test_a_killed_build_goes_on_where_it_stopped(tmp_path: Path) -> None:
    count = 320
    corpus = write_corpus(tmp_path / "c.jsonl", count)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.retriever.helpers", corpus, tmp_path], stderr=subprocess.DEVNULL
    )
    vectors = tmp_path / "killed.building" / VECTORS
    deadline = time.monotonic() + LIMIT_S
    while not vectors.exists() or vectors.stat().st_size < 5 * FakeEncoder.at_once * 16 * 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with vectors.open("ab") as file:
        file.write(b"torn")  # a write that the kill cut short

    encoder = FakeEncoder()
    resumed, said = run(Plan(corpus, "killed", tmp_path, "fake"), encoder)
    assert encoder.passages_encoded <= count - 4 * FakeEncoder.at_once
    assert said[0].startswith("resuming an unfinished build")
    assert not vectors.parent.exists()

    whole = build_index(tmp_path / "whole", count, "whole")
    assert contents(resumed) == contents(whole)
    assert Index(resumed).manifest.version == Index(whole).manifest.version


class Stops(FakeEncoder):
    """Stops after two batches, as a killed process does."""

    def passages(self, texts):  # type: ignore[no-untyped-def]
        if self.passages_encoded >= 2 * FakeEncoder.at_once:
            raise KeyboardInterrupt
        return super().passages(texts)


@pytest.mark.parametrize("changed", ["corpus", "encoder", "nothing"])
def test_only_the_same_corpus_and_encoder_are_gone_on_with(tmp_path: Path, changed: str) -> None:
    first = plan(tmp_path, 5 * FakeEncoder.at_once)
    with pytest.raises(KeyboardInterrupt):
        run(first, Stops())
    encoder = FakeEncoder(name="other" if changed == "encoder" else "fake")
    if changed == "corpus":
        first.corpus.write_text(first.corpus.read_text().replace("word7 ", "word seven "))
    folder, said = run(first, encoder)
    assert encoder.passages_encoded == (3 if changed == "nothing" else 5) * FakeEncoder.at_once
    assert ("over" in said[0]) == (changed != "nothing")
    assert len(np.load(folder / VECTORS)) == 5 * FakeEncoder.at_once


def test_a_bad_line_stops_the_build_before_anything_is_encoded(tmp_path: Path) -> None:
    bad = plan(tmp_path)
    bad.corpus.write_text(bad.corpus.read_text() + "nope\n")
    encoder = FakeEncoder()
    with pytest.raises(BadRecord, match=r"c\.jsonl:21: not JSON"):
        run(bad, encoder)
    assert encoder.passages_encoded == 0
    assert not (bad.out / "built").exists()


def test_bad_lines_are_skipped_counted_and_shown(tmp_path: Path) -> None:
    bad = replace(plan(tmp_path), on_error="skip")
    bad.corpus.write_text("nope\n" * 7 + bad.corpus.read_text())
    folder, said = run(bad)
    assert Index(folder).manifest.count == 20
    assert said[0] == "bad records skipped: 7"
    assert len(said) == 6
    assert said[1].endswith("c.jsonl:1: not JSON: Expecting value: line 1 column 1 (char 0)")


@pytest.mark.parametrize("query", ["q: ", ""])
def test_prefixes_are_said_recorded_and_part_of_the_version(tmp_path: Path, query: str) -> None:
    encoder = FakeEncoder()
    encoder.parameters = {"query_prefix": query, "passage_prefix": ""}
    folder, said = run(plan(tmp_path), encoder)
    assert said[0] == f"query prefix of fake: {query!r}"
    assert any(line.startswith("warning: ") for line in said) == (not query)
    manifest = Index(folder).manifest
    assert manifest.encoder_parameters == encoder.parameters
    plain, _ = run(replace(plan(tmp_path), name="plain"))
    assert manifest.version != Index(plain).manifest.version
    assert (manifest.encoding == Index(plain).manifest.encoding) == (not query)


def test_files_that_are_passed_over_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_corpus(folder / "a.jsonl", 3)
    (folder / "more.csv").touch()
    index, said = run(replace(plan(tmp_path), corpus=folder))
    assert Index(index).manifest.count == 3
    assert str(folder / "more.csv") in said[0]


def test_a_passage_without_a_title_is_found_by_its_text_alone(tmp_path: Path) -> None:
    untitled = plan(tmp_path)
    untitled.corpus.write_text('{"_id": 1, "text": "the harbour"}\n{"_id": 2, "title": null, "text": "a mill"}\n')
    encoder = FakeEncoder()
    folder, _ = run(untitled, encoder)
    index = Index(folder)
    [by_vector] = index.dense(encoder.queries(["a mill"]), 2)
    assert (by_vector[0][0], by_vector[0][1]) == (1, pytest.approx(1, abs=1e-3))
    assert [[row for row, _ in found] for found in index.bm25(["harbour"], 2)] == [[0]]
    assert index.passages([0])[0].title == ""


def test_a_corpus_without_passages_is_refused(tmp_path: Path) -> None:
    empty = replace(plan(tmp_path), on_error="skip")
    empty.corpus.write_text("nope\n")
    with pytest.raises(BuildRefused, match=r"no passages; .*c\.jsonl:1: not JSON"):
        run(empty)


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_named_before_the_work(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    encoder = FakeEncoder()
    with pytest.raises(NotADirectoryError, match=f"{out}/built.building"):
        run(replace(plan(tmp_path), out=tmp_path / out), encoder)
    assert encoder.passages_encoded == 0


def test_a_source_that_is_not_text_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match="--source and --licence"):
        run(replace(plan(tmp_path), source="caf\udce9"))


def test_an_index_is_replaced_only_when_told(tmp_path: Path) -> None:
    first = plan(tmp_path)
    run(first)
    write_corpus(first.corpus, 30)
    with pytest.raises(BuildRefused, match="exists; --force replaces it"):
        run(first)
    folder, _ = run(replace(first, force=True))
    assert Index(folder).manifest.count == 30
    assert [path.name for path in first.out.iterdir()] == ["built"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    first = plan(tmp_path)
    folder, _ = run(first)
    folder.rename(folder.with_name("built.old"))
    with pytest.raises(BuildRefused, match="exists"):
        run(first)
    assert Index(folder).manifest.count == 20


def test_two_builds_of_one_name_do_not_mix(tmp_path: Path) -> None:
    class Nested(FakeEncoder):
        def passages(self, texts):  # type: ignore[no-untyped-def]
            with pytest.raises(BuildRefused, match="another build is running"):
                run(first)
            return super().passages(texts)

    first = plan(tmp_path)
    run(first, Nested())


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x.building", "x.old", "a" * 65])
def test_names_that_are_no_folder_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(BuildRefused, match="--name"):
        run(replace(plan(tmp_path), name=name))


def test_ready_vectors_give_the_same_index_as_encoding(tmp_path: Path) -> None:
    encoded, _ = run(plan(tmp_path))
    encoder = FakeEncoder()
    given = replace(plan(tmp_path), name="given", vectors=encoded / VECTORS)
    taken, _ = run(given, encoder)
    assert encoder.passages_encoded == 3  # the sample that is compared
    assert contents(taken) == contents(encoded)
    assert Index(taken).manifest.version == Index(encoded).manifest.version


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (np.zeros((19, 16), np.float32), "19 vectors for 20 passages"),
        (np.zeros((20, 8), np.float32), "8 dimensions, fake has 16"),
        (np.zeros((20, 16), np.int64), "not a table of floats"),
        (np.eye(20, 16, dtype=np.float32), "row 0 is not the vector that fake makes of that passage"),
    ],
)
def test_ready_vectors_that_do_not_fit(tmp_path: Path, vectors: np.ndarray, reason: str) -> None:
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(BuildRefused, match=f"v.npy: .*{reason}"):
        run(replace(plan(tmp_path), vectors=tmp_path / "v.npy"))


def test_ready_vectors_do_not_fit_when_lines_were_skipped(tmp_path: Path) -> None:
    whole, _ = run(plan(tmp_path))
    holed = replace(plan(tmp_path), name="holed", vectors=whole / VECTORS, on_error="skip")
    holed.corpus.write_text(holed.corpus.read_text().replace('"id": "p3"', '"id": null'))
    with pytest.raises(BuildRefused, match="20 vectors for 19 passages, 1 records were skipped"):
        run(holed)


def test_one_vector_that_is_not_of_length_1(tmp_path: Path) -> None:
    folder, _ = run(plan(tmp_path))
    vectors = np.load(folder / VECTORS)
    vectors[7] *= 2
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(BuildRefused, match="row 7 is not of length 1"):
        run(replace(plan(tmp_path), name="other", vectors=tmp_path / "v.npy"))


def test_without_vectors_an_index_has_bm25_alone(tmp_path: Path) -> None:
    folder, _ = run(replace(plan(tmp_path), encoder=""))
    manifest = Index(folder).manifest
    assert (manifest.modes, manifest.dim, manifest.encoder) == ((Mode.BM25,), 0, "")
    assert VECTORS not in manifest.files


def test_a_corpus_of_stop_words_alone_can_be_built_and_searched(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": "1", "title": "The", "text": "of the and"}))
    folder, _ = run(Plan(tmp_path / "c.jsonl", "stop", tmp_path, "fake"))
    assert Index(folder).bm25(["the of", "fish", ""], 5) == [[], [], []]


def test_s3s_corpus_shape_gives_the_same_passages(tmp_path: Path) -> None:
    ours, _ = run(plan(tmp_path))
    lines = [json.dumps({"id": f"p{n}", "contents": f'"Title {n}"\ncommon word{n} text'}) for n in range(20)]
    (tmp_path / "s3.jsonl").write_text("\n".join(lines))
    theirs, _ = run(Plan(tmp_path / "s3.jsonl", "s3", tmp_path / "out", "fake"))
    assert manifests.read(theirs, True).version == manifests.read(ours, True).version
