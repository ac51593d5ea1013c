"""Parts of the GPU benchmarks that calculate or write, on a CPU."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

from bench import encoder_folder, encoding
from bench.encoding import Encode, paces
from bench.random_index import write
from bench.vectors import measure
from search_agent.types import Mode
from services.retriever import manifest
from services.retriever.passages import PassageStore


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


def test_a_random_index_is_whole(tmp_path: Path) -> None:
    folder = write(48, 16, tmp_path / "e5", "random", tmp_path)
    made = manifest.read(folder, verify_checksums=True)  # what a retriever checks before it opens one
    assert (made.name, made.count, made.dim, made.modes) == ("random", 48, 16, (Mode.DENSE,))
    rows = np.load(folder / "vectors.npy")
    assert (rows.shape, rows.dtype) == ((48, 16), np.float16)
    assert np.abs(np.linalg.norm(rows.astype(np.float32), axis=1) - 1).max() < 1e-2
    assert [passage.title for passage in PassageStore(folder)][15:18] == ["Passage 15", "Passage 0", "Passage 1"]


@pytest.mark.parametrize("devices", [1, 3])
def test_vectors_shared_out_over_devices_are_searched_exactly(devices: int) -> None:
    asked = Namespace(devices=["cpu"] * devices, dim=16, queries=[1, 4], top_k=5)
    rows = measure(3000, asked)
    assert [(row["devices"], row["queries"], row["exact"]) for row in rows] == [(devices, 1, True), (devices, 4, True)]


def test_parts_of_our_encoder_are_timed_beside_the_whole(tmp_path: Path) -> None:
    texts = [f"word{number % 7} " * (number % 9 + 1) for number in range(40)]
    folder = encoder_folder.write(tmp_path / "e5", texts, hidden=32, layers=1, max_tokens=32, words=60)
    found = encoding.measure(str(folder), texts, seconds=0.01, rounds=1, first=40)
    assert found["part_of_model_only"] == pytest.approx(
        found["encoders"]["ours"]["passages_per_s"] / found["model_only_per_s"]
    )
    assert found["tokenizing_only_per_s"] > 0
