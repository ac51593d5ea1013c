"""Turns the metrics in verl's log into the steps of WatchRun and publishes them to Prometheus, as they are written.

The tables map each metric of verl 0.9.1, and our own `search/…`, to the name "GROUP/NAME" of the contract and the
gauges. Metrics without a name there stay in metrics.jsonl and TensorBoard.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import Gauge

from common import lines, metrics
from common.training import TrainingStep

# One gauge a group, labelled with the run and the metric's name.
GAUGES: Mapping[str, Gauge] = {
    "reward": metrics.TRAINING_REWARD,
    "conduct": metrics.TRAINING_CONDUCT,
    "samples": metrics.TRAINING_SAMPLES,
    "policy": metrics.TRAINING_POLICY,
    "seconds": metrics.TRAINING_SECONDS,
    "gpu": metrics.TRAINING_GPU,
    "validation": metrics.TRAINING_VALIDATION,
}
NAMES: Mapping[str, str] = {
    "search/reward": "reward/reward",
    "search/gain": "reward/gain",
    "search/accuracy": "reward/accuracy",
    "search/rag_accuracy": "reward/rag_accuracy",
    "search/coverage": "reward/coverage",
    "search/all_kept": "reward/all_kept",
    "search/all_seen": "reward/all_seen",
    "search/penalty": "reward/penalty",
    "search/searches": "conduct/searches",
    "search/selected": "conduct/selected",
    "search/malformed": "conduct/malformed",
    "search/repeated": "conduct/repeated",
    "search/wasted": "conduct/wasted",
    "search/everything": "conduct/everything",
    "search/copied": "conduct/copied",
    "search/idle": "conduct/idle",
    "response_length/mean": "conduct/tokens",
    "search/dropped": "samples/dropped",
    "search/lonely": "samples/lonely",
    "search/mixed_groups": "policy/mixed_groups",
    "search/mixed_searches": "policy/mixed_searches",
    "search/choice_entropy": "policy/choice_entropy",
    "training/filter_groups/evicted_samples": "samples/questions_replaced",
    "actor/entropy_loss": "policy/entropy",
    "actor/kl_loss": "policy/kl_to_base",  # the loss term, with actor.use_kl_loss
    "actor/reward_kl_penalty": "policy/kl_to_base",  # in the reward, with algorithm.use_kl_in_reward
    "actor/ppo_kl": "policy/kl_of_update",
    "actor/pg_clipfrac": "policy/clipped",
    "actor/pg_loss": "policy/loss",
    "actor/grad_norm": "policy/gradient_norm",
    "actor/lr": "policy/learning_rate",
    "critic/vf_loss": "policy/critic_loss",
    "critic/vf_explained_var": "policy/critic_explained",
    "perf/mfu/actor": "gpu/share_of_peak_flops",
    "actor/perf/max_memory_allocated_gb": "gpu/allocated_gb",
    "actor/perf/max_memory_reserved_gb": "gpu/reserved_gb",
    "perf/throughput": "gpu/tokens_per_second",
}
_PATTERNS = (
    (re.compile(r"search/dropped_by/(\w+)"), r"samples/dropped_by_\1"),
    (re.compile(r"timing_s/(\w+)"), r"seconds/\1"),  # step, gen, reward, old_log_prob, ref, adv, update_actor, …
    (re.compile(r"val-(?:core|aux)/\w+/(\w+)/mean@\d+"), r"validation/\1"),
)


def name_of(verl: str) -> str:
    """Returns "GROUP/NAME", or "" for a metric that is not shown."""
    if verl in NAMES:
        return NAMES[verl]
    return next((found.expand(name) for pattern, name in _PATTERNS if (found := pattern.fullmatch(verl))), "")


class MetricsLog:
    """Reads metrics.jsonl as it grows, whole lines only.

    `steps` holds the latest values of each step: a resumed run writes steps again. Lines of one step are merged, since
    verl logs validation in a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self.steps: dict[int, TrainingStep] = {}

    def new(self) -> list[TrainingStep]:
        """Returns the steps of the lines that were added since the last call, in file order."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._read:  # another file, begun anew
                    self._read = 0
                    self.steps.clear()
                file.seek(self._read)
                fresh = file.read()
        except FileNotFoundError:
            return []
        whole, torn = lines.whole(fresh)
        self._read += len(fresh) - len(torn)
        found: dict[int, TrainingStep] = {}
        for line in whole:
            if step := _step(line):
                before = self.steps.get(step.step)
                merged = TrainingStep(step.step, {**(before.metrics if before else {}), **step.metrics})
                self.steps[step.step] = found[step.step] = merged
        return list(found.values())


def _step(line: bytes) -> TrainingStep | None:
    """Returns the step of a line, or None if the line cannot be read.

    A killed process may leave half a line, to which the next process appends its own: the last record counts.
    """
    try:
        record = json.loads(line[max(0, line.rfind(b'{"step"')) :])
        numbers = {name: float(value) for verl, value in record["data"].items() if (name := name_of(verl))}
        return TrainingStep(
            int(record["step"]), {name: value for name, value in numbers.items() if math.isfinite(value)}
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def publish(run: str, steps: list[TrainingStep]) -> None:
    """Publishes the newest value of each metric to Prometheus."""
    for step in steps:
        metrics.TRAINING_STEP.labels(run).set(step.step)
        for name, value in step.metrics.items():
            group, _, what = name.partition("/")
            GAUGES[group].labels(run, what).set(value)


def withdraw(run: str) -> None:
    """Removes the run from Prometheus."""
    for gauge in (*GAUGES.values(), metrics.TRAINING_STEP):
        for family in list(gauge.collect()):
            for sample in family.samples:
                if sample.labels["run"] == run:
                    gauge.remove(*sample.labels.values())
