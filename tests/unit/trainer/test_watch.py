"""verl's log read as it grows, by our names, and into Prometheus."""

import json
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from common.training import TrainingStep
from services.trainer import watch
from services.trainer.watch import MetricsLog


def line(step: int, **data: float) -> str:
    return json.dumps({"step": step, "data": {name.replace("__", "/"): value for name, value in data.items()}}) + "\n"


@pytest.mark.parametrize(
    ("verl", "ours"),
    [
        ("search/gain", "reward/gain"),
        ("search/repeated", "conduct/repeated"),
        ("search/wasted", "conduct/wasted"),
        ("search/dropped", "samples/dropped"),
        ("search/dropped_by/retriever", "samples/dropped_by_retriever"),
        ("actor/entropy_loss", "policy/entropy"),
        ("actor/kl_loss", "policy/kl_to_base"),
        ("timing_s/update_actor", "seconds/update_actor"),
        ("perf/mfu/actor", "gpu/share_of_peak_flops"),
        ("val-core/search/reward/mean@1", "validation/reward"),
        ("val-aux/search/accuracy/mean@4", "validation/accuracy"),
        ("val-aux/search/accuracy/best@4/mean", ""),
        ("val-aux/num_turns/mean", ""),
        ("timing_per_token_ms/gen", ""),
        ("training/epoch", ""),
    ],
)
def test_names(verl: str, ours: str) -> None:
    assert watch.name_of(verl) == ours


def test_every_name_has_a_gauge() -> None:
    assert {name.partition("/")[0] for name in watch.NAMES.values()} < watch.GAUGES.keys()


def test_the_log_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    assert log.new() == []
    second = line(2, search__gain=0.2)
    path.write_text(line(1, search__gain=0.1, unknown__thing=5) + second[:17])
    assert log.new() == [TrainingStep(1, {"reward/gain": 0.1})]
    assert log.new() == []
    with path.open("a") as file:
        file.write(second[17:])
    assert log.new() == [TrainingStep(2, {"reward/gain": 0.2})]


def test_a_step_that_comes_again_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, search__gain=0.1, search__searches=2) + line(2, search__gain=0.2))
    log = MetricsLog(path)
    assert [step.step for step in log.new()] == [1, 2]
    with path.open("a") as file:
        file.write(line(1, search__gain=0.5))
    assert log.new() == [TrainingStep(1, {"reward/gain": 0.5, "conduct/searches": 2})]
    assert log.steps[2] == TrainingStep(2, {"reward/gain": 0.2})


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    torn = line(3, search__gain=0.3)[:20]
    path.write_text(torn + line(3, search__gain=0.4) + "no JSON\n[]\n" + '{"step": 4}\n' + line(5, search__gain=0.5))
    assert MetricsLog(path).new() == [TrainingStep(3, {"reward/gain": 0.4}), TrainingStep(5, {"reward/gain": 0.5})]


def test_what_is_no_finite_number_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "data": {"search/gain": NaN, "search/reward": Infinity, "search/accuracy": 1}}\n')
    assert MetricsLog(path).new() == [TrainingStep(1, {"reward/accuracy": 1.0})]


def test_a_file_begun_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, search__gain=0.1) + line(2, search__gain=0.2))
    log = MetricsLog(path)
    log.new()
    path.write_text(line(1, search__gain=0.9))
    assert log.new() == [TrainingStep(1, {"reward/gain": 0.9})]
    assert log.steps.keys() == {1}


def test_prometheus_shows_a_run_until_it_is_withdrawn() -> None:
    def gain(run: str) -> float | None:
        return REGISTRY.get_sample_value("search_agent_training_reward", {"run": run, "part": "gain"})

    watch.publish(
        "w1", [TrainingStep(1, {"reward/gain": 0.1}), TrainingStep(2, {"reward/gain": 0.2, "seconds/step": 9})]
    )
    watch.publish("w2", [TrainingStep(7, {"reward/gain": 0.7})])
    assert gain("w1") == 0.2
    assert REGISTRY.get_sample_value("search_agent_training_seconds", {"run": "w1", "phase": "step"}) == 9
    assert REGISTRY.get_sample_value("search_agent_training_step", {"run": "w1"}) == 2
    watch.withdraw("w1")
    assert gain("w1") is None
    assert REGISTRY.get_sample_value("search_agent_training_step", {"run": "w1"}) is None
    assert gain("w2") == 0.7
    watch.withdraw("w2")
