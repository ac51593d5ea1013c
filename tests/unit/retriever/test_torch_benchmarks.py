"""The parts of the GPU benchmarks that reckon or write, on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

from bench.encoding import Encode, paces
from bench.random_index import write
from services.retriever.index import Index


def test_each_encoder_takes_what_the_seconds_are_enough_for() -> None:
    speeds = {"fast": 100.0, "slow": 2.0}
    calls: list[tuple[str, int]] = []

    def kind(name: str) -> Encode:
        def work(texts: list[str]) -> object:
            calls.append((name, len(texts)))
            return name

        return work

    def clock(work: Encode, texts: list[str]) -> float:
        return len(texts) / speeds[str(work(texts))]

    kinds = {name: kind(name) for name in speeds}
    found = paces(kinds, ["text"] * 1000, seconds=5, rounds=2, first=20, clock=clock)
    assert found == {
        "fast": {"passages_per_s": 100, "passages": 500},
        "slow": {"passages_per_s": 2, "passages": 20},  # never fewer than the first
    }
    assert calls[4:] == [("fast", 500), ("slow", 20)] * 2  # in turn


def test_no_encoder_takes_more_than_there_are() -> None:
    found = paces({"only": len}, ["text"] * 8, seconds=5, rounds=1, first=20, clock=lambda work, texts: 0.01)
    assert found == {"only": {"passages_per_s": 800, "passages": 8}}


def test_a_random_index_is_one_that_opens_and_finds_its_rows(tmp_path: Path) -> None:
    index = Index(write(48, 16, tmp_path / "e5", "random", tmp_path))
    rows = np.load(tmp_path / "random" / "vectors.npy").astype(np.float32)
    assert rows.shape == (48, 16)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-2
    assert [ranking[0][0] for ranking in index.dense(rows[[3, 40]], 2)] == [3, 40]
    assert [index.passages([row])[row].title for row in (0, 17, 47)] == ["Passage 0", "Passage 1", "Passage 15"]
