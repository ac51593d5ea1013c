"""bench.cost, bench.parts and bench.processes: costs, sizes, and whose processor time it is."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from bench.cost import Cost, parsed, told
from bench.parts import folder_bytes, median_ms, words
from bench.processes import in_sessions, processor_s


def test_processor_time_is_that_of_the_processes_and_not_of_the_clock() -> None:
    before, began = processor_s([os.getpid()]), time.process_time()
    while time.process_time() < began + 0.1:
        pass
    assert 0.05 < processor_s([os.getpid()]) - before < 0.5
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        assert processor_s([sleeping.pid]) < 0.05
        sleeping.terminate()
    assert processor_s([sleeping.pid]) == 0


def test_a_session_has_the_processes_that_its_leader_started() -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE, text=True
    ) as leader:
        assert leader.stdout
        child = int(leader.stdout.readline())
        found = in_sessions([leader.pid])
        os.killpg(leader.pid, 15)
    assert sorted(found) == sorted([leader.pid, child])


@pytest.mark.parametrize(
    ("spec", "fields"),
    [("direct", {"method": "direct"}), ("naive_rag:top_k=8", {"method": "naive_rag", "top_k": 8})],
)
def test_a_method_is_asked_with_its_parameters(spec: str, fields: dict[str, object]) -> None:
    assert parsed(spec) == fields


def test_costs_are_means_by_method_and_of_s3_by_its_searches() -> None:
    def cost(method: str, id: str, right: float, searches: int, read: int) -> Cost:
        return Cost(method, id, right, 1, searches, read, 2, 3.0, 4.0)

    found = told(
        [
            cost("s3", "a", 1.0, 2, 100),
            cost("direct", "a", 0.0, 0, 10),
            cost("s3", "b", 0.0, 1, 300),
            cost("s3", "c", 0.5, 2, 500),
        ]
    )
    assert [(row["method"], row["questions"], row["right"], row["tokens_read"]) for row in found["methods"]] == [
        ("direct", 1, 0.0, 10),
        ("s3", 3, 0.5, 300),
    ]
    assert [(row["searches"], row["questions"], row["tokens_read"]) for row in found["s3_by_searches"]] == [
        (1, 1, 300),
        (2, 2, 300),
    ]


def test_a_folder_is_as_large_as_its_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"1")
    assert folder_bytes(tmp_path) == 6


def test_copies_of_the_passages_are_indexed_and_searched() -> None:
    texts = ["Marie Curie found radium", "A river in Bavaria"]
    one, three = (words(texts, copies, ["radium"]) for copies in (1, 3))
    assert (one["passages"], three["passages"]) == (2, 6)
    assert three["bytes"] > one["bytes"]


def test_the_time_of_a_text_is_the_median_and_of_the_processor() -> None:
    def work(text: str) -> None:
        time.sleep(0.05)  # takes no processor time
        until = time.process_time() + float(text)
        while time.process_time() < until:
            pass

    assert median_ms(work, ["0.005", "0.01", "0.1"]) == pytest.approx(10, abs=5)
