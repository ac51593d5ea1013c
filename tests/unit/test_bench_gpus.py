"""bench.gpus: what the parts measured, compared by the number of GPUs; bench.recorded: the machine in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import recorded, scoreboard
from bench.gpus import COUNTS, RATES, compared, read, table, training, whole
from common import run_config


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def step(number: int, seconds: float) -> dict[str, Any]:
    return {"step": number, "data": {"timing_s/step": seconds, "timing_s/gen": seconds / 2}}


def test_rates_are_compared_with_those_of_one_gpu(tmp_path: Path) -> None:
    for count, rate in ((1, 50.0), (2, 90.0), (4, 160.0)):
        write(tmp_path / f"logs/gpus-engines-{count}.json", {"questions_per_s": rate, "p50_s": 2.0, "right": 0.3})
    row = {"vectors": 9, "ours_ms": 2.0, "exact": True}
    rows = [{**row, "queries": 1}, {**row, "queries": 64, "ours_ms": 4.0}]
    write(tmp_path / "logs/gpus-vectors-2.json", {"rows": rows})
    found = read(tmp_path)
    engines = found["engines"]
    assert [(each["times"], each["efficiency"]) for each in engines.values()] == [(1, 1), (1.8, 0.9), (3.2, 0.8)]
    assert list(engines) == ["1", "2", "4"]
    two = {"vectors": 9, "exact": True, "ms": {"1": 2.0, "64": 4.0}, "queries_per_s": 16000}
    assert found["vectors"] == {"2": two | {"times": None, "efficiency": None}}
    assert set(found) == {"engines", "vectors"}
    assert table(found)[3:] == [
        "| engines | 2 | 90.0 | questions/s | 1.80 | 0.90 |",
        "| engines | 4 | 160.0 | questions/s | 3.20 | 0.80 |",
        "| vectors | 2 | 16,000.0 | queries/s |  |  |",
    ]


def test_a_run_is_measured_after_its_first_two_steps(tmp_path: Path) -> None:
    for count, seconds in ((1, 12.0), (2, 6.0)):
        folder = tmp_path / f"gpus-training-{count}"
        steps = [step(1, 99), step(2, 99), step(3, seconds), step(4, seconds)]
        write(folder / "metrics.jsonl", None)
        validation = json.dumps({"step": 0, "data": {"val-core/score": 1.0}})
        lines = "\n".join([validation, *map(json.dumps, steps)])
        (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
        run = run_config.load("smollm2-demo", {"verl.data.train_batch_size": 64})
        (folder / "config.yaml").write_text(run_config.dump(run), encoding="utf-8")
    shutil.copytree(tmp_path / "gpus-training-1", tmp_path / "gpus-training-7b-2")
    (tmp_path / "gpus-training-7b-4").mkdir()  # ended before its first step
    assert read(tmp_path)["training-7b"].keys() == {"2"}
    two = read(tmp_path)["training"]["2"]
    assert (two["steps"], two["step_s"], two["rollouts_s"]) == (2, 6, 3)
    assert two["trajectories_per_h"] == pytest.approx(64 * 16 * 600)
    assert two["efficiency"] == pytest.approx(1)
    assert two["gpu_minutes"] == pytest.approx(2 * 6 / 60)
    assert "update_s" not in two


def test_a_run_without_such_steps_was_not_measured() -> None:
    assert training([{"timing_s/step": 9.0}] * 2, 8, warm_up=2) == {}


@pytest.mark.parametrize(
    "measured", [{}, {1: {"rate": 5.0}}, {2: {"rate": 9.0, "gpu_minutes": None}}, {3: {"rate": 9.0}}]
)
def test_a_goal_on_what_was_not_measured_says_so(measured: dict[int, dict[str, float | None]]) -> None:
    goals = [goal for goal in json.loads(scoreboard.GOALS.read_text("utf-8")) if goal["result"] == "gpus-gpu.json"]
    assert {goal["now"].split("/")[2] for goal in goals} <= {str(count) for count in COUNTS}
    result = whole({part: compared(measured, "rate") for part in RATES} if measured else {})
    assert {scoreboard.row(goal, result)[3] for goal in goals} == {"not measured"}


def test_a_result_names_its_machine(tmp_path: Path) -> None:
    lines = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)"
    machine = recorded.device(["printf", lines])
    assert machine.startswith("2 × NVIDIA H100 80GB HBM3 of one host, ")
    recorded.write(tmp_path / "result.json", machine, "run", {"small": {"rate": 1.0}})
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert list(result) == ["device", "date", "command", "small"]
