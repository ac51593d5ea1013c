"""Searches vectors as on a GPU, with torch on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.retriever.gpu import GpuFlat, TorchDevice

torch: Any = pytest.importorskip("torch")


class OnCpu(TorchDevice):
    def free_bytes(self) -> int:
        return 1 << 40


@pytest.mark.parametrize("count", [1, 127, 128, 1000, 5000, 20_001])
@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("devices", [1, 3])
def test_nearest_rows_are_exact(count: int, k: int, devices: int) -> None:
    drawn = np.random.default_rng(count)
    rows = drawn.normal(size=(count, 24)).astype(np.float16)
    rows[count // 2 :: 7] = rows[0]  # many alike
    asked = drawn.normal(size=(7, 24)).astype(np.float16).astype(np.float32)
    index = GpuFlat(
        rows, [OnCpu(torch.device("cpu"))] * 1 if devices == 1 else [OnCpu("cpu") for _ in range(3)], Path()
    )
    scores, found = index.search(asked, k)
    exact = asked @ rows.astype(np.float32).T
    best = -np.sort(-exact, axis=1)[:, :k]
    assert np.allclose(scores, best, atol=1e-4)
    assert np.allclose(np.take_along_axis(exact, found, axis=1), scores, atol=1e-4)
    assert all(len(set(each)) == len(each) for each in found.tolist())
