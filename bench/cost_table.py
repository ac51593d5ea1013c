"""The cost of a question by each method: tables of docs/growth.md.

Processor seconds and tokens were measured (`bench.cost`). A cell that begins with ≈ is computed from measured figures
as the functions below state.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.growth import Table
from bench.scoreboard import recorded, value

CORES = 2
RERANKED = 20  # passages that the cross-encoder reads, each in a prompt of its own
_HOP = "/single_hop/dense/reader"
_SERVED = "multihop-balanced-gpu.json"  # has the demo's searcher, seed 4
_GRAPHS = "agents-graphs-gpu.json"


@dataclass(frozen=True)
class Source:
    """Where a method's accuracy was recorded: a mean in per cent with its interval, and the number of questions."""

    file: str
    pointer: str
    questions: int


METHODS: dict[str, tuple[str, Source]] = {
    "direct": ("direct", Source("baselines-cpu.json", "/methods/direct/base/gen_acc", 16)),
    "cot": ("cot", Source("baselines-cpu.json", "/methods/cot/base/gen_acc", 16)),
    "naive_rag:top_k=1": ("naive_rag, 1 passage", Source("multihop-test-gpu.json", f"{_HOP}/naive/1", 1500)),
    "naive_rag:top_k=3": ("naive_rag, 3 passages", Source("multihop-test-gpu.json", f"{_HOP}/naive/3", 1500)),
    "naive_rag:top_k=8": ("naive_rag, 8 passages", Source("searchers-gpu.json", "/methods/1/gen_acc", 1500)),
    "s3": ("**s3**, the demo's searcher", Source(_SERVED, "/single_hop/hybrid/seed 4/accuracy", 1500)),
    "search_r1": (
        "search_r1",
        Source("baselines-cpu.json", "/methods/search_r1:turn_tokens=64:max_turns=2/base/gen_acc", 16),
    ),
    "ircot": ("ircot", Source("evaluation-gpu.json", "/results/4/gen_acc", 500)),
    "search_o1": (
        "search_o1",
        Source("baselines-cpu.json", "/methods/search_o1:turn_tokens=64:max_turns=2/base/gen_acc", 16),
    ),
}
RERANKED_SOURCE = Source("searchers-gpu.json", "/second_run/methods/3/gen_acc", 1500)


@dataclass(frozen=True)
class Price:
    """The cost of a question. `processor_s` are seconds of one core."""

    tokens_read: float
    tokens_written: float
    processor_s: float

    @property
    def tokens(self) -> float:
        return self.tokens_read + self.tokens_written

    def and_read(self, prompts: int, each: Price) -> Price:
        """Returns the price with `prompts` more that are read as those of `each` are."""
        return Price(
            self.tokens_read + prompts * each.tokens_read,
            self.tokens_written,
            self.processor_s + prompts * each.processor_s,
        )


def gpu_tokens_per_s() -> float:
    """Returns the tokens a second, read or written, of s3 served by one engine on one H100."""
    return _tokens_per_s(recorded(_GRAPHS)["one_engine"]["pieces, 4,096 tokens a step"])


def _tokens_per_s(played: Mapping[str, float]) -> float:
    return (played["tokens_read"] + played["tokens_written"]) * played["questions_per_s"]


def gpu_seconds(price: Price, played: Mapping[str, float] | None) -> tuple[float, str]:
    """Returns a card's seconds for a question, with the mark of a computed figure unless `bench.agents` played it."""
    return (1 / played["questions_per_s"], "") if played else (price.tokens / gpu_tokens_per_s(), "≈ ")


def methods() -> Table:
    """Each method's accuracy and cost on questions of one hop."""
    played = recorded("cost-gpu.json") or {}
    prices = {
        row["method"]: Price(row["tokens_read"], row["tokens_written"], row["processor_s"])
        for row in recorded("cost-cpu.json")["methods"]
    }
    asked = {row["method"]: row["questions"] for row in recorded("cost-cpu.json")["methods"]}
    rows = []
    for spec, (what, source) in METHODS.items():
        gpu = gpu_seconds(prices[spec], played.get(spec.replace(":top_k=", "-")))
        rows.append(_row(what, source, prices[spec], gpu, f"{asked[spec]}"))
        if spec == "naive_rag:top_k=1":
            reranked = prices[spec].and_read(RERANKED, prices[spec])
            gpu = gpu_seconds(reranked, None)
            rows.append(_row("naive_rag, the best of 20 reranked", RERANKED_SOURCE, reranked, gpu, ""))
    head = ("method", "right, %", "of", "tokens read", "written", "processor s", "questions asked here")
    return (*head, "an hour on two cores", "an hour on one H100", "GPU ms"), rows


def _row(what: str, source: Source, price: Price, gpu: tuple[float, str], asked: str) -> list[str]:
    mean, low, high = _per_cent(value(recorded(source.file), source.pointer))
    computed = "" if asked else "≈ "
    gpu_s, mark = gpu
    return [
        what,
        f"{mean:.1f} [{low:.1f}, {high:.1f}]",
        f"[{source.questions:,}](../bench/results/{source.file})",
        f"{computed}{price.tokens_read:,.0f}",
        f"{computed}{price.tokens_written:,.0f}",
        f"{computed}{price.processor_s:.1f}",
        asked,
        f"≈ {_rounded(3600 * CORES / price.processor_s):,.0f}",
        f"{mark}{_rounded(3600 / gpu_s):,.0f}",
        f"{mark}{1e3 * gpu_s:.1f}",
    ]


def _rounded(figure: float) -> float:
    """Returns the figure with two digits that count."""
    return float(f"{figure:.2g}")


def _per_cent(estimate: Any) -> tuple[float, float, float]:
    """Returns mean and interval in per cent, of a list in per cent or of an object of shares."""
    if isinstance(estimate, Mapping):
        mean, low, high = (100 * float(estimate[name]) for name in ("mean", "low", "high"))
    else:
        mean, low, high = map(float, estimate)
    return mean, low, high


def rates() -> Table:
    """Rates of s3 on GPUs: in training, and serving 256 questions at once."""
    steps = recorded("multihop-verl-gpu.json")["runs"]["first attempt"]["steps"][1:10]
    trained = statistics.median(step["tokens"] / step["seconds_rollouts"] for step in steps)
    rows = [["s3's rollouts in training, SmolLM2, one H100", f"{trained:,.0f}", ""]]
    found = recorded(_GRAPHS)
    for what, played in (
        ("searcher and reader as adapters of one engine", found["one_engine"]["pieces, 4,096 tokens a step"]),
        ("the same, four engines", found["adapters, four engines"]["256 at once"]),
        ("searcher and reader as whole models, one engine each", found["merged"]["one engine each, 256 at once"]),
        ("the same, two engines each", found["merged"]["two engines each, 256 at once"]),
    ):
        rate = f"{3600 * played['questions_per_s']:,.0f}"
        rows.append([f"s3 served, SmolLM2, one H100: {what}", f"{_tokens_per_s(played):,.0f}", rate])
    seven = recorded("agents-gpu.json")["models"]["seven"]["median"]["own pace"]["questions_per_s"]
    rows.append(["s3 served, untrained searcher, a 7B shape, one H200", "", f"{3600 * seven:,.0f}"])
    return ("what ran", "tokens a second", "questions an hour"), rows


def several_hops() -> Table:
    """Accuracy on 623 questions of several hops by passages read, hybrid retrieval."""
    found = recorded(_SERVED)["test"]["hybrid"]
    rows = [["naive_rag", f"{size}.0", _interval(found["naive"][size])] for size in ("1", "3", "6", "8")]
    s3 = found["seed 4"]
    rows.append(["**s3**, the demo's searcher", f"{s3['kept']:.1f}", _interval(s3["accuracy"])])
    return ("method", "passages read", "right, %"), rows


def _interval(estimate: Any) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*_per_cent(estimate))


TABLES: dict[str, Callable[[], Table]] = {"methods": methods, "rates": rates, "hops": several_hops}
