from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from services.cli import main
from services.retriever import ladder
from services.retriever.dense import FAISS
from services.retriever.errors import BuildRefused
from tests.unit.retriever.helpers import build_index


def test_two_rungs_are_measured(tmp_path: Path) -> None:
    rows, queries = ladder.random_rows(3000, 32, 20, tmp_path / "r.npy")
    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    said: list[str] = []
    flat, small = ladder.measure(rows, queries, ["sq8"], tmp_path, 8, 0.05, said.append)
    assert (flat.kind, flat.recall, small.kind) == ("flat", 1, "sq8")
    assert flat.disk_bytes == 3000 * 32 * 2 + 128
    assert 3000 * 32 <= small.disk_bytes < flat.disk_bytes
    assert 0.9 < small.recall <= 1
    assert min(flat.queries_per_s, small.queries_per_s, flat.queries_per_s_16_at_once) > 0
    assert said[0] == "flat: building"
    assert not (tmp_path / FAISS).exists()
    lines = ladder.table([flat, small], 8).splitlines()
    assert [line.count("|") for line in lines] == [10] * 4
    assert (np.asarray(ladder.random_rows(3000, 32, 20, tmp_path / "again.npy")[0][:9]) == rows[:9]).all()


def test_a_rung_that_cannot_be_measured_is_an_error(tmp_path: Path) -> None:
    rows, queries = ladder.random_rows(10, 4, 2, tmp_path / "r.npy")
    with pytest.raises(BuildRefused, match="flat: the measuring process ended with 1: "):
        ladder.measure(rows, queries[:, :3], [], tmp_path, 8, 0.05, lambda line: None)


def test_the_ladder_of_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = build_index(tmp_path, 30, "mine")
    options = ["--kinds", "flat", "--seconds", "0.05", "--count", "5", "--json", str(tmp_path / "found.json")]
    assert main(["index", "ladder", str(index), *options]) == 0
    assert "| flat | " in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["command"].startswith(f"search-agent index ladder {index} --kinds flat")
    assert (found["count"], found["dim"], found["queries"]) == (30, 16, 5)
    assert found["vectors"].startswith("mine ")
    assert {"date", "machine", "versions"} < found.keys()
    assert main(["index", "ladder", "--random", "9", "4", "--queries", "q.jsonl"]) == 1
    assert "--queries needs an index" in capsys.readouterr().err


def test_questions_are_read_and_bad_files_named(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "one"}\n{"question": "two"}\n{"question": "three"}\n')
    assert ladder.read_questions(path, 2) == ["one", "two"]
    for text in ("", "nope", '{"text": "x"}'):
        path.write_text(text)
        with pytest.raises(BuildRefused, match=r"q\.jsonl: "):
            ladder.read_questions(path, 2)
