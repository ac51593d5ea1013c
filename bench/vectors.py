"""Compares exact search on GPUs with the time to read the vectors once: `python -m bench.vectors --out FILE`.

Over random float16 vectors of length 1 it times a call of the retriever's own search (queries in, results out), FAISS's
brute force over the same memory if faiss-gpu is installed, and one read of the memory, which is the floor. `--devices
cuda:0 cuda:1` shares the vectors between two GPUs, which FAISS's brute force cannot do; `--devices cpu` runs it without
a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.retriever.gpu import GpuFlat, TorchDevice

_CALLS, _WARM_UP = 10, 2


class Drawn:
    """Rows of a random table that is never in memory as a whole."""

    def __init__(self, count: int, dim: int, device: str) -> None:
        self.shape = (count, dim)
        self._device = device

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        drawn = torch.randn(stop - start, self.shape[1], device=self._device)
        found: np.ndarray = torch.nn.functional.normalize(drawn).half().cpu().numpy()
        return found


class Device(TorchDevice):
    """A GPU, or the CPU in its place, which holds `table`."""

    def free_bytes(self) -> int:
        return super().free_bytes() if torch.cuda.is_available() else 1 << 40

    @property
    def table(self) -> torch.Tensor:
        held: torch.Tensor = self._table
        return held


def milliseconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_WARM_UP + _CALLS):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[_WARM_UP:])


def read(tables: Sequence[torch.Tensor]) -> None:
    """Reads all tables, each on its own device, at the same time."""
    sums = [table.view(torch.float32).sum() for table in tables]
    for each in sums:
        each.item()  # waits for its device


def brute_force(table: torch.Tensor, top_k: int) -> Callable[[np.ndarray], object] | None:
    """Returns FAISS's brute-force search over `table`, or None if FAISS has no GPU."""
    try:
        faiss: Any = importlib.import_module("faiss")
        importlib.import_module("faiss.contrib.torch_utils")
        resources = faiss.StandardGpuResources()
    except (ImportError, AttributeError):
        return None
    resources.setTempMemory(1 << 30)

    def search(queries: np.ndarray) -> object:
        asked = torch.from_numpy(queries).to(table.device, torch.float16)
        return faiss.knn_gpu(resources, asked, table, top_k, metric=faiss.METRIC_INNER_PRODUCT)

    return search


def measure(count: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    first = args.devices[0]
    devices = [Device(torch.device(name)) for name in args.devices]
    index = GpuFlat(Drawn(count, args.dim, first), devices, Path("random"))
    tables = [device.table for device in devices]
    floor = milliseconds(lambda: read(tables))
    theirs = brute_force(tables[0], args.top_k) if len(tables) == 1 else None
    some = [table[: (1 << 20) // len(tables)] for table in tables]
    rows = []
    for queries in args.queries:
        asked = np.ascontiguousarray(Drawn(queries, args.dim, first)[:].astype(np.float32))
        row: dict[str, Any] = {"devices": len(devices), "vectors": count, "queries": queries, "floor_ms": floor}
        row["ours_ms"] = milliseconds(lambda asked=asked: index.search(asked, args.top_k))  # type: ignore[misc]
        if theirs:
            row["faiss_ms"] = milliseconds(lambda asked=asked: theirs(asked))  # type: ignore[misc]
        products = [torch.from_numpy(asked).to(table.device) @ table.float().T for table in some]
        best = torch.cat([each.cpu() for each in products], dim=1).topk(args.top_k).values.numpy()
        row["exact"] = bool((index.search(asked, args.top_k)[0] >= best - 1e-3).all())  # more rows: never lower
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.vectors", description=__doc__)
    parser.add_argument("--vectors", type=int, nargs="+", default=[1_000_000, 5_000_000, 21_000_000])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--devices", nargs="+", default=["cuda:0"])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    rows = [row for count in args.vectors for row in measure(count, args)]
    about = {
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
    }
    args.out.write_text(json.dumps({**about, "dim": args.dim, "top_k": args.top_k, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
