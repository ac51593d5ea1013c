"""Measures every index kind on given vectors: size, memory, times, speed, and recall against flat."""

from __future__ import annotations

import gzip
import importlib
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from services.retriever import dense
from services.retriever.errors import BuildRefused
from services.retriever.kinds import FLAT, Kind
from services.retriever.rows import Rows

_CHUNK = 65_536  # rows drawn at a time
# Latent dimensions of random vectors. Points spread evenly in 768 dimensions have no near neighbours; texts have.
_LATENT = 64


@dataclass(frozen=True, slots=True)
class Rung:
    """The measurements of one kind.

    `own_memory_bytes` of `memory_bytes` are not pages of a file, which could be dropped and read again. `recall` is the
    share of flat's top k that is found. Speeds are those of one process with all cores, or with `gpus` GPUs, of whose
    memory vectors, searching and libraries take `gpu_bytes`.
    """

    kind: str
    parameters: dict[str, int]
    disk_bytes: int
    memory_bytes: int
    own_memory_bytes: int
    build_s: float
    load_s: float
    queries_per_s: float
    queries_per_s_16_at_once: float
    recall: float
    gpus: int = 0
    gpu_bytes: int = 0


def measure(
    rows: Rows, queries: np.ndarray, wanted: Sequence[Kind], scratch: Path, top_k: int, seconds: float,
    say: Callable[[str], None], gpus: int = 0,
) -> list[Rung]:  # fmt: skip
    """Builds each kind over `rows` in `scratch`, flat first, and measures it in a fresh process.

    `queries` are float32 (queries, dim); each speed is measured for `seconds` at most. With `gpus`, a kind that can be
    held by GPUs is measured a second time, held by so many.
    """
    count, dim = rows.shape
    np.save(scratch / "queries.npy", queries)
    rungs: list[Rung] = []
    truth: np.ndarray | None = None
    for kind in [FLAT, *(kind for kind in wanted if kind is not FLAT)]:
        say(f"{kind.name}: building")
        parameters = kind.parameters(count, dim)
        path = scratch / kind.files[0]
        started = time.perf_counter()
        dense.write(rows, kind, parameters, path)
        build_s = time.perf_counter() - started
        say(f"{kind.name}: built in {build_s:.1f} s, measuring")
        asked = {
            "path": str(path), "kind": kind.name, "count": count, "dim": dim, "parameters": parameters,
            "queries": str(scratch / "queries.npy"), "top_k": top_k, "seconds": seconds,
            "found": str(scratch / "found.npy"),
        }  # fmt: skip
        for held_by in (0, gpus) if gpus and kind.gpus else (0,):
            measured = _probe({**asked, "gpus": held_by})
            found = np.load(scratch / "found.npy")
            truth = found if truth is None else truth
            size = path.stat().st_size
            rungs.append(Rung(kind.name, parameters, size, build_s=build_s, recall=_recall(truth, found), **measured))
            say(_row(rungs[-1]))
        path.unlink()
    return rungs


def _recall(truth: np.ndarray, found: np.ndarray) -> float:
    shared = [len({*a} & {*b} - {-1}) for a, b in zip(truth.tolist(), found.tolist(), strict=True)]
    return sum(shared) / max(1, int((truth >= 0).sum()))


def _probe(asked: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "services.retriever.probe"], input=json.dumps(asked), capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed, perhaps for want of memory"])[-1]
        raise BuildRefused(f"{asked['kind']}: the measuring process ended with {done.returncode}: {reason}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def random_rows(count: int, dim: int, queries: int, path: Path) -> tuple[Rows, np.ndarray]:
    """Writes `count` rows of length 1 to the .npy file `path`; returns them and float32 queries. Always the same."""
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((_LATENT, dim), dtype=np.float32)

    def draw(number: int) -> np.ndarray:
        drawn = generator.standard_normal((number, _LATENT), dtype=np.float32) @ mixing
        drawn += generator.standard_normal((number, dim), dtype=np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn

    asked = draw(queries)
    rows = dense.new_rows(path, count, dim)
    for start in range(0, count, _CHUNK):
        rows[start : start + _CHUNK] = draw(min(_CHUNK, count - start))
    return rows, asked


def read_questions(path: Path, limit: int) -> list[str]:
    """Returns the `question` of the first `limit` JSON lines of a file, plain or .gz. Raises BuildRefused."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as lines:
            found = [str(json.loads(line)["question"]) for line, _ in zip(lines, range(limit), strict=False)]
    except FileNotFoundError as error:
        raise BuildRefused(f"{path}: {error.strerror}") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BuildRefused(f'{path}: not JSON lines with a "question": {error!r}') from error
    if not found:
        raise BuildRefused(f"{path}: no questions")
    return found


def table(rungs: Sequence[Rung], top_k: int) -> str:
    """Returns the rungs as a Markdown table."""
    sizes, speeds = "GPUs | GPU MB | disk MB | memory MB | of it own", "build s | load s | queries/s | 16 at once"
    lines = [f"| kind | {sizes} | {speeds} | recall@{top_k} |", "| --- " + "| ---: " * 10 + "|"]
    return "\n".join([*lines, *map(_row, rungs)])


def _row(rung: Rung) -> str:
    sizes = " | ".join(f"{size / 1e6:,.1f}" for size in (rung.disk_bytes, rung.memory_bytes, rung.own_memory_bytes))
    speeds = f"{rung.queries_per_s:,.1f} | {rung.queries_per_s_16_at_once:,.1f}"
    held = f"{rung.kind} | {rung.gpus} | {rung.gpu_bytes / 1e6:,.1f}"
    return f"| {held} | {sizes} | {rung.build_s:,.1f} | {rung.load_s:.2f} | {speeds} | {rung.recall:.3f} |"


def report(rungs: Sequence[Rung], argv: Sequence[str], **about: object) -> dict[str, object]:
    """Returns what is written as JSON: the rungs with date, command, machine and versions."""
    faiss: Any = importlib.import_module("faiss")  # faiss-cpu or faiss-gpu
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["search-agent", *argv]),
        "machine": {"cpu": cpu[0].partition(": ")[2] if cpu else platform.machine(), "cores": len(cpu)},
        "versions": {"faiss": faiss.__version__, "numpy": np.__version__, "python": platform.python_version()},
        **about,
        "rungs": [asdict(rung) for rung in rungs],
    }
