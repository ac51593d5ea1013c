"""Prepares data and trains one run, resuming where it stopped: `python -m learning.train RUN_FOLDER`.

Exits with 0 if the run has finished, with 3 if it stopped by itself (RUN_FOLDER/reason.txt has the reason), and with
another status if it crashed. As a job of Ray it joins that cluster; otherwise it starts its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import run_config, run_services, waiting
from common.error_text import one_line
from common.files import refusal, write_whole
from common.problems import Problem
from common.run_config import ConfigProblem, RunConfig
from common.training import STOPPED_BY_ITSELF
from learning import data
from learning.samples import RunStopped
from learning.weights import check_folder, merge_start, start_of, write_weights
from search_agent.errors import BoundaryError

if TYPE_CHECKING:
    from omegaconf import DictConfig

FINISHED, STOPPED = 0, STOPPED_BY_ITSELF
_ROOT = Path(__file__).resolve().parents[1]
_ENGINE = "learning.engine"
_FILTER = "algorithm.filter_groups"
_MINI_BATCH = "actor_rollout_ref.actor.ppo_mini_batch_size"
_NEEDED = ("torch", "ray", "verl", "vllm", "transfer_queue")

# What differs from verl's defaults in every run; a run's `verl` is laid over it.
#
# Samples are packed without padding, and micro-batches are by count of tokens; learning/engine.py computes a prompt
# once. Models that it does not know are packed by verl, whose fused kernels ("torch": no extra package) make logits for
# 512 tokens at a time too, but of the prompts as well. `use_torch_compile` compiles an entropy that nothing then uses.
#
# vLLM's log-probabilities differ from the actor's by 0.0002, so they are the old ones, and the pass that would compute
# them again is left out. Entropy then comes from the update.
DEFAULTS: Mapping[str, Any] = {
    "algorithm.rollout_correction.bypass_mode": True,
    "actor_rollout_ref.actor.calculate_entropy": True,
    "actor_rollout_ref.model.use_remove_padding": True,
    "critic.model.use_remove_padding": True,
    "actor_rollout_ref.model.use_fused_kernels": True,
    "actor_rollout_ref.model.fused_kernel_options.impl_backend": "torch",
    # vLLM gets the weights with the adapter merged in: of an adapter by itself PEFT 0.21 finds no tensor under the
    # first FSDP, and vLLM would sample from the base model.
    "actor_rollout_ref.model.lora.merge": True,
    # verl's first FSDP makes a unit of each of LoRA's matrices: 451 for 30 layers, where FSDP2 has one a layer and a
    # deep, narrow model takes half the time.
    "actor_rollout_ref.actor.strategy": "fsdp2",
    "critic.strategy": "fsdp2",
    # The critic's micro-batches are as large as the actor's. verl 0.9.1 reads only the second option.
    "critic.ppo_max_token_len_per_gpu": "${actor_rollout_ref.actor.ppo_max_token_len_per_gpu}",
    "+critic.ppo_infer_max_token_len_per_gpu": "${critic.ppo_max_token_len_per_gpu}",
    "actor_rollout_ref.actor.use_dynamic_bsz": True,
    "actor_rollout_ref.actor.use_torch_compile": False,
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
    "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    "actor_rollout_ref.rollout.calculate_log_probs": True,
    # A start imports everything in every process; these are few because episodes wait and do not compute.
    "actor_rollout_ref.rollout.agent.num_workers": 2,
    "reward.num_workers": 1,  # never asked: the agent loop rewards
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 2,
    "data.dataloader_num_workers": 0,
    "trainer.val_before_train": True,
}


def options(run: RunConfig, folder: Path) -> dict[str, Any]:
    """Returns verl's dotted options for a run: ours, then the run's `verl`, then those that follow from the run."""
    flash = importlib.util.find_spec("flash_attn") is not None  # for models that learning/engine.py does not know
    attention = "flash_attention_2" if flash else "causal_sdpa"
    chosen = {
        **DEFAULTS,
        "+actor_rollout_ref.model.override_config.attn_implementation": attention,
        "+critic.model.override_config.attn_implementation": attention,
        "critic.model.path": run.base_model,
        **run.verl,
    }
    if run.adapter and run.trains_adapter:
        chosen["actor_rollout_ref.model.lora_adapter_path"] = str(Path(run.adapter).resolve())
    samples = int(chosen.get("actor_rollout_ref.rollout.n", 1))
    grouped = str(_plain(chosen, "algorithm.adv_estimator")).startswith("grpo")
    if grouped and samples < 2:
        raise ConfigProblem("verl.actor_rollout_ref.rollout.n", "GRPO compares samples of one prompt: at least 2")
    batch, mini = run.questions_a_step, chosen.get(_MINI_BATCH, 256)
    if batch % mini:
        raise ConfigProblem(f"verl.{_MINI_BATCH}", f"{mini} does not divide data.train_batch_size {batch}")
    sampler: dict[str, Any] = {"samples": samples, "smallest_group": 2 if grouped else 1}
    sampler["drop_even"] = run.drop_even_groups
    sampler["validation_samples"] = int(chosen.get("actor_rollout_ref.rollout.val_kwargs.n", 1))
    if chosen.get(f"{_FILTER}.enable", False):
        in_flight = chosen.get(f"{_FILTER}.max_inflight_gen_batches", 1)
        sampler["filtering"] = {"train_batch_size": batch, "max_inflight_gen_batches": in_flight}
    return chosen | {
        "actor_rollout_ref.model.path": start_of(run, folder),
        "actor_rollout_ref.rollout.seed": run.seed,
        "actor_rollout_ref.rollout.agent.agent_loop_config_path": str(folder / "agent_loop.yaml"),
        "actor_rollout_ref.rollout.agent.default_agent_loop": "search_agent",
        "data.seed": run.seed,
        "data.shuffle": not run.data.mixture,
        "data.train_files": str(folder / "data" / data.TRAIN),
        "data.val_files": str(folder / "data" / data.VALIDATION),
        "trainer.default_local_dir": str(folder / "checkpoints"),
        "trainer.experiment_name": run.name,
        "trainer.project_name": "search-agent",
        "trainer.logger": ["console", "tensorboard"],  # and metrics.jsonl, by our trainer
        "trainer.resume_mode": "auto",
        "trainer.v1.sampler.custom_sampler.path": "pkg://learning.ppo",
        "trainer.v1.sampler.custom_sampler.name": "Sampler",
        "+trainer.v1.sampler.sampler_kwargs": sampler | {"max_failed_share": run.reward.max_failed_share},
        "+ray_kwargs.ray_init.runtime_env.env_vars": _environment(folder),
    }


def _environment(folder: Path) -> dict[str, str]:
    """Returns the variables of every process of the run. Ray refuses one that the surrounding job sets too."""
    ours = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))),
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "VERL_USE_EXTERNAL_MODULES": _ENGINE,  # imported along with verl
    }
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    theirs = job.get("runtime_env", {}).get("env_vars", {})
    return {name: value for name, value in ours.items() if name not in theirs}


def _plain(chosen: Mapping[str, Any], option: str) -> Any:
    return chosen.get(option, "gae" if option == "algorithm.adv_estimator" else None)


def compose(chosen: Mapping[str, Any]) -> DictConfig:
    """Returns verl's whole configuration with these options, checked by verl. Raises ConfigProblem."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    with initialize_config_module("verl.trainer.config", version_base=None):
        whole = hydra_compose("ppo_trainer")
    for option, value in chosen.items():
        name = option.removeprefix("+")
        if OmegaConf.is_dict(OmegaConf.select(whole, name)) and not isinstance(value, Mapping):
            raise ConfigProblem(f"verl.{option}", "has options of its own")
        try:
            if option.startswith("+"):
                with open_dict(whole):
                    OmegaConf.update(whole, name, value, force_add=True)
            else:
                OmegaConf.update(whole, name, value)
        except (OmegaConfBaseException, HydraException) as error:
            raise ConfigProblem(f"verl.{option}", str(error).splitlines()[0]) from None
    try:
        validate_config(whole, need_reference_policy(whole), need_critic(whole))
    except (AssertionError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise ConfigProblem("verl", str(error)) from None
    return whole


def check_gpus(whole: DictConfig) -> None:
    """Refuses GPUs that cannot share a mini-batch out evenly: verl would end the run after its first rollouts."""
    gpus = whole.trainer.n_gpus_per_node * whole.trainer.nnodes
    rollout = whole.actor_rollout_ref.rollout
    samples = whole.actor_rollout_ref.actor.ppo_mini_batch_size * rollout.n
    ranks = gpus // whole.actor_rollout_ref.actor.ulysses_sequence_parallel_size
    if ranks and samples % ranks:
        told = f"{samples} samples ({samples // rollout.n} questions of {rollout.n}) cannot be shared out over {ranks}"
        raise ConfigProblem(f"verl.{_MINI_BATCH}", f"{told} GPUs; choose a multiple")


def check_steps(whole: DictConfig, questions: int) -> None:
    """Refuses more steps than the questions to train on make: verl would end the run early, without a word."""
    batch, epochs, steps = whole.data.train_batch_size, whole.trainer.total_epochs, whole.trainer.total_training_steps
    most = questions // batch * epochs
    if most < (steps or 1):
        told = f"{questions} questions make {most} steps of {batch} (total_epochs: {epochs}), not {steps or 1}"
        raise ConfigProblem("verl.trainer.total_training_steps", told)


def train(folder: Path) -> None:
    """Trains the run. Raises RunStopped, with a reason of one line, if it cannot continue by itself."""
    try:
        run = run_config.load(str(folder / "config.yaml"))
        if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
            raise RunStopped(f"reinforcement learning needs {', '.join(missing)}, which this machine does not have")
        _check_device()
        for field, place in (("base_model", run.base_model), ("adapter", run.adapter)):
            check_folder(field, place)
        asyncio.run(_prepare(run, folder / "data"))
        merge_start(run, folder)
        chosen = compose(options(run, folder))
        check_gpus(chosen)
        check_steps(chosen, data.rows(folder / "data" / data.TRAIN))
    except (Problem, BoundaryError) as error:
        raise RunStopped(str(error)) from error
    try:
        _run(chosen, folder)
    finally:
        write_weights(run, folder)


def _check_device() -> None:
    import torch

    if not torch.cuda.is_available():
        raise RunStopped("reinforcement learning needs a GPU, and this machine has none that torch can use")


async def _prepare(run: RunConfig, folder: Path) -> None:
    async with run_services.world_of(run) as world:
        await data.prepare(run, folder, world)


def _run(chosen: DictConfig, folder: Path) -> None:
    import yaml
    from ray.exceptions import RayTaskError
    from verl.trainer.main_ppo import run_ppo

    from learning.ppo import Runner
    from learning.rollout import registry

    (folder / "agent_loop.yaml").write_text(yaml.safe_dump(registry(folder)), encoding="utf-8")
    try:
        run_ppo(chosen, task_runner_class=Runner)
    except RayTaskError as error:
        if isinstance(error.cause, RunStopped):
            raise error.cause from None
        if isinstance(error.cause, OSError):
            raise error.cause from error
        raise


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        print("usage: python -m learning.train RUN_FOLDER", file=sys.stderr)
        return 2
    folder = Path(argv[0]).resolve()
    reason = folder / "reason.txt"
    reason.unlink(missing_ok=True)
    try:
        with waiting.shown(waiting.display_on(sys.stderr)):
            train(folder)
    except (RunStopped, OSError) as stopped:
        if isinstance(stopped, OSError) and not refusal(stopped):
            raise
        line = one_line(stopped)
        print(line, file=sys.stderr)
        with suppress(OSError):  # on a full disk
            write_whole(reason, line + "\n")
        return STOPPED
    return FINISHED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
