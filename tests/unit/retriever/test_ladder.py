from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.main import main
from services.retriever import ladder, probe
from services.retriever.errors import BuildRefused
from services.retriever.kinds import FAISS, KINDS
from tests.unit.retriever.helpers import build_index
from tests.unit.retriever.test_gpu import FakeGpu


def test_two_rungs_are_measured(tmp_path: Path) -> None:
    rows, queries = ladder.random_rows(3000, 32, 20, tmp_path / "r.npy")
    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    said: list[str] = []
    flat, small = ladder.measure(rows, queries, [KINDS["sq8"]], tmp_path, 8, 0.05, said.append)
    assert (flat.kind, flat.recall, small.kind) == ("flat", 1, "sq8")
    assert flat.disk_bytes == 3000 * 32 * 2 + 128
    assert 3000 * 32 <= small.disk_bytes < flat.disk_bytes
    assert 0.9 < small.recall <= 1
    assert min(flat.queries_per_s, small.queries_per_s, flat.queries_per_s_16_at_once) > 0
    assert said[0] == "flat: building"
    assert not (tmp_path / FAISS).exists()
    lines = ladder.table([flat, small], 8).splitlines()
    assert [line.count("|") for line in lines] == [12] * 4
    assert (np.asarray(ladder.random_rows(3000, 32, 20, tmp_path / "again.npy")[0][:9]) == rows[:9]).all()


def test_a_rung_that_cannot_be_measured_is_an_error(tmp_path: Path) -> None:
    rows, queries = ladder.random_rows(10, 4, 2, tmp_path / "r.npy")
    with pytest.raises(BuildRefused, match="flat: the measuring process ended with 1: "):
        ladder.measure(rows, queries[:, :3], [], tmp_path, 8, 0.05, lambda line: None)


class FillingGpu(FakeGpu):
    """Has less free memory, the more it holds."""

    def free_bytes(self) -> int:
        return super().free_bytes() - self.table.nbytes


def test_a_rung_on_gpus_is_told_with_their_memory(tmp_path: Path) -> None:
    queries = ladder.random_rows(300, 32, 20, tmp_path / "r.npy")[1]
    np.save(tmp_path / "queries.npy", queries)
    asked = {
        "path": str(tmp_path / "r.npy"), "kind": "flat", "count": 300, "dim": 32, "parameters": {}, "top_k": 8,
        "queries": str(tmp_path / "queries.npy"), "seconds": 0.05, "found": str(tmp_path / "found.npy"),
    }  # fmt: skip
    on_cpu, on_cpu_rows = probe.measure({**asked, "gpus": 0}), np.load(tmp_path / "found.npy")
    on_gpus = probe.measure({**asked, "gpus": 2}, lambda gpus: [FillingGpu(number) for number in range(gpus)])
    assert (on_cpu["gpus"], on_cpu["gpu_bytes"]) == (0, 0)
    assert (on_gpus["gpus"], on_gpus["gpu_bytes"]) == (2, 300 * 32 * 2)
    assert np.load(tmp_path / "found.npy").tolist() == on_cpu_rows.tolist()


def test_gpus_that_are_not_there_are_told_before_a_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "ladder", "--random", "9", "4", "--gpus", "64"]) == 1
    error = capsys.readouterr().err
    assert "RETRIEVER_GPUS" in error
    assert "building" not in error


@pytest.mark.parametrize("option", [["--scratch", "gone"], ["--json", "gone/x.json"]])
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", "ladder", "--random", "9", "4", *option]) == 1
    assert capsys.readouterr().err == f"search-agent: {option[0]}: there is no folder gone\n"


@pytest.mark.parametrize("option", ["--count", "--top-k", "--gpus"])
def test_numbers_that_measure_nothing_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["index", "ladder", "--random", "9", "4", option, "0"])
    assert caught.value.code == 2
    assert f"{option}: must be at least 1" in capsys.readouterr().err


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
