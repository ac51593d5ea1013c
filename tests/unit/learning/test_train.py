"""The process of a run: what it asks of verl, and how it ends where it cannot train."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common import run_config
from common.run_config import ConfigProblem
from learning import train


def options(folder: Path, name: str = "smollm2-demo", **overrides: Any) -> dict[str, Any]:
    return train.options(run_config.load(name, overrides), folder)


def test_what_follows_from_the_run_is_set(tmp_path: Path) -> None:
    chosen = options(tmp_path, seed=9, base_model="some/model")
    assert chosen["actor_rollout_ref.model.path"] == "some/model"
    assert chosen["data.seed"] == chosen["actor_rollout_ref.rollout.seed"] == 9
    assert chosen["trainer.default_local_dir"] == str(tmp_path / "checkpoints")
    assert chosen["data.train_files"] == str(tmp_path / "data" / "train.parquet")
    assert "actor_rollout_ref.model.lora_adapter_path" not in chosen


def test_a_run_may_overrule_our_defaults(tmp_path: Path) -> None:
    name = "actor_rollout_ref.rollout.agent.num_workers"
    assert options(tmp_path)[name] == train.DEFAULTS[name]
    assert options(tmp_path, **{f"verl.{name}": 6})[name] == 6


def test_the_adapter_to_start_from_is_found_from_anywhere(tmp_path: Path) -> None:
    chosen = options(tmp_path, adapter="adapters/warm")
    assert chosen["actor_rollout_ref.model.lora_adapter_path"] == str(Path("adapters/warm").resolve())


def test_groups_of_grpo_need_siblings_and_ppo_needs_a_critic(tmp_path: Path) -> None:
    sampler = "+trainer.v1.sampler.sampler_kwargs"
    grouped = options(tmp_path)
    assert grouped[sampler]["smallest_group"] == 2
    assert grouped[sampler]["samples"] == 16
    alone = options(tmp_path, "s3-8-3-3")
    assert alone[sampler]["smallest_group"] == 1
    assert alone["critic.model.path"] == "Qwen/Qwen2.5-7B-Instruct"
    with pytest.raises(ConfigProblem, match="at least 2"):
        options(tmp_path, **{"verl.actor_rollout_ref.rollout.n": 1})


def test_what_a_ray_job_has_set_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "+ray_kwargs.ray_init.runtime_env.env_vars"
    assert options(tmp_path)[name]["TENSORBOARD_DIR"] == str(tmp_path / "tensorboard")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"env_vars": {"PYTHONPATH": "/job"}}}')
    assert set(options(tmp_path)[name]) == {"TENSORBOARD_DIR", "VERL_USE_EXTERNAL_MODULES"}


def test_a_mini_batch_divides_the_batch(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblem) as problem:
        options(tmp_path, **{"verl.actor_rollout_ref.actor.ppo_mini_batch_size": 48})
    assert problem.value.field == "verl.actor_rollout_ref.actor.ppo_mini_batch_size"


def test_a_machine_that_cannot_train_says_so_in_one_line(tmp_path: Path) -> None:
    """No GPU here, and mostly no verl either."""
    (tmp_path / "reason.txt").write_text("of an earlier start")
    (tmp_path / "config.yaml").write_text(run_config.dump(run_config.load("smollm2-demo")))
    command = [sys.executable, "-m", "learning.train", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == train.STOPPED
    reason = (tmp_path / "reason.txt").read_text()
    assert reason.startswith("reinforcement learning needs ")
    assert reason.count("\n") == 1
    assert ended.stderr.strip().endswith(reason.strip())


def test_a_run_without_a_configuration_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([str(tmp_path)]) == train.STOPPED
    assert "config" in (tmp_path / "reason.txt").read_text()
    assert train.main([]) == 2
    assert "usage" in capsys.readouterr().err
