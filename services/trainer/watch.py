"""What a run says of itself: the lines of its metrics.jsonl as they come, under names of ours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# verl's names, and those of services/trainer/samples.py, by ours. What has no name here is in TensorBoard.
NAMES = {
    "search/reward": "reward",
    "search/accuracy": "accuracy",
    "search/rag_accuracy": "rag_accuracy",
    "search/gain": "gain",
    "search/searches": "searches",
    "search/selected": "selected",
    "search/malformed": "malformed_turns",
    "search/repeated": "repeated_queries",
    "search/everything": "kept_everything",
    "search/copied": "copied_question",
    "search/idle": "kept_nothing",
    "search/penalty": "penalty",
    "search/dropped": "dropped_samples",
    "val-aux/search/accuracy/mean@1": "validation_accuracy",
    "val-aux/search/gain/mean@1": "validation_gain",
    "val-aux/search/reward/mean@1": "validation_reward",
    "actor/entropy": "entropy",
    "actor/kl_loss": "kl",
    "actor/grad_norm": "gradient_norm",
    "actor/lr": "learning_rate",
    "critic/advantages/mean": "advantage",
    "response_length/mean": "response_tokens",
    "prompt_length/mean": "prompt_tokens",
    "timing_s/step": "step_seconds",
    "timing_s/gen": "rollout_seconds",
    "timing_s/old_log_prob": "log_prob_seconds",
    "timing_s/ref": "reference_seconds",
    "timing_s/adv": "advantage_seconds",
    "timing_s/update_actor": "actor_seconds",
    "timing_s/update_critic": "critic_seconds",
    "timing_s/update_weights": "weights_seconds",
    "timing_s/testing": "validation_seconds",
    "timing_s/save_checkpoint": "checkpoint_seconds",
    "perf/throughput": "tokens_per_second",
    "perf/mfu/actor": "model_flops_utilisation",
    "perf/max_memory_allocated_gb": "gpu_memory_gigabytes",
}


class Metrics:
    """A growing file of JSON lines {"step", "data": {name: number}}. A last line without its end waits for it."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def new(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Steps and metrics of the lines that came since the last call; of a resumed run some steps come again."""
        try:
            with self._file.open("rb") as lines:
                lines.seek(self._read)
                for line in lines:
                    if not line.endswith(b"\n"):
                        return
                    self._read += len(line)
                    found = json.loads(line)
                    yield int(found["step"]), ours(found["data"])
        except FileNotFoundError:
            return


def ours(data: Mapping[str, float]) -> dict[str, float]:
    """The metrics that have a name here."""
    return {NAMES[name]: value for name, value in data.items() if name in NAMES}


def by_step(lines: Iterable[tuple[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    """Each step once, ascending; where a resumed run came by it again, as it was then."""
    steps: dict[int, dict[str, float]] = {}
    for step, metrics in lines:
        steps[step] = steps.get(step, {}) | metrics
    return dict(sorted(steps.items()))
