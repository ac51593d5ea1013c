"""A run's metrics as they grow."""

import json
from pathlib import Path

from services.trainer.watch import Metrics, by_step


def line(step: int, **data: float) -> str:
    return json.dumps({"step": step, "data": {name.replace("_", "/", 1): value for name, value in data.items()}}) + "\n"


def test_lines_come_once_and_a_torn_one_waits_for_its_end(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    metrics = Metrics(file)
    assert not list(metrics.new())
    file.write_text(line(1, search_gain=0.25, actor_unknown=7) + '{"step": 2, "da')
    assert list(metrics.new()) == [(1, {"gain": 0.25})]
    assert not list(metrics.new())
    with file.open("a") as more:
        more.write('ta": {"actor/entropy": 0.5}}\n' + line(3, search_gain=1))
    assert list(metrics.new()) == [(2, {"entropy": 0.5}), (3, {"gain": 1})]


def test_a_step_that_came_again_counts_as_it_was_then(tmp_path: Path) -> None:
    lines = [
        (1, {"gain": 0.1}),
        (3, {"gain": 0.3}),
        (2, {"gain": 0.2}),
        (3, {"gain": 0.4, "kl": 1.0}),
        (3, {"kl": 2.0}),
    ]
    assert list(by_step(lines).items()) == [(1, {"gain": 0.1}), (2, {"gain": 0.2}), (3, {"gain": 0.4, "kl": 2.0})]
