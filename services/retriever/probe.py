"""`python -m services.retriever.probe`: measures one kind in a process of its own, so that its memory can be told.

Reads a request (JSON: path, kind, count, dim, parameters, queries, top_k, seconds, gpus, found) from standard
input, writes the measurements to standard output, and the rows found to the .npy file `found`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.retriever.dense import Dense
from services.retriever.gpu import Device, torch_devices
from services.retriever.kinds import KINDS

AT_ONCE = 16  # queries a batch


def resident() -> dict[str, int]:
    """Returns the resident bytes of this process: `all`, and of those `own`, which are not pages of a file."""
    sizes = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(sizes[field].split()[0]) * 1024 for name, field in (("all", "VmRSS"), ("own", "RssAnon"))}


def per_second(rung: Dense, queries: np.ndarray, top_k: int, at_once: int, seconds: float) -> float:
    """Returns queries answered a second, `at_once` a call, over all `queries` or as many as `seconds` allow."""
    done, started = 0, time.perf_counter()
    for start in range(0, len(queries), at_once):
        done += len(rung.search(queries[start : start + at_once], top_k))
        if time.perf_counter() - started > seconds:
            break
    return done / (time.perf_counter() - started)


def measure(asked: dict[str, Any], find_gpus: Callable[[int], Sequence[Device]] = torch_devices) -> dict[str, Any]:
    queries, top_k = np.load(asked["queries"]), asked["top_k"]
    path = Path(asked["path"])
    gpus = find_gpus(asked["gpus"]) if asked["gpus"] else ()
    free = sum(gpu.free_bytes() for gpu in gpus)
    import faiss  # loaded before the first look at the memory

    faiss.IndexFlatIP(asked["dim"]).search(queries[:1], 1)
    before, started = resident(), time.perf_counter()
    rung = Dense(path, KINDS[asked["kind"]], asked["count"], asked["dim"], asked["parameters"], gpus)
    load_s = time.perf_counter() - started
    found = np.full((len(queries), top_k), -1, dtype=np.int64)
    for start in range(0, len(queries), AT_ONCE):
        for row, ranking in enumerate(rung.search(queries[start : start + AT_ONCE], top_k), start=start):
            found[row, : len(ranking)] = [hit for hit, _ in ranking]
    after = resident()
    np.save(asked["found"], found)
    return {
        "gpus": asked["gpus"],
        "gpu_bytes": max(0, free - sum(gpu.free_bytes() for gpu in gpus)),
        "load_s": load_s,
        "memory_bytes": after["all"] - before["all"],
        "own_memory_bytes": max(0, after["own"] - before["own"]),
        "queries_per_s": per_second(rung, queries, top_k, 1, asked["seconds"]),
        "queries_per_s_16_at_once": per_second(rung, queries, top_k, AT_ONCE, asked["seconds"]),
    }


def main() -> None:
    json.dump(measure(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
