"""Admits what a request starts: a configuration by name, and overrides that cannot choose a file, host or module.

Everything else needs a configuration in the trainer's own folder, which requests cannot write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import addresses, run_config
from common.run_config import ConfigProblem, RunConfig

_WORD = re.compile(r"[A-Za-z0-9_-]{1,100}")  # no path, no module, and none of Hydra's ${…}
_FIELDS = {
    "name", "seed", "index", "drop_even_groups", "retriever_timeout_s", "generator_timeout_s",
    *(f"data.{name}" for name in ("part", "limit", "keep", "mixture", "validation")),
    *(f"reward.{name}" for name in (
        "kind", "coverage_weight", "rag_documents", "answer_tokens", "max_failed_share", "attempts",
        "everything_penalty", "copied_penalty", "idle_penalty", "malformed_penalty", "repeated_penalty",
        "wasted_penalty", "kept_penalty",
    )),
    *(f"teacher.{name}" for name in ("samples", "where")),
    *(f"stop.{name}" for name in ("mixed_groups", "choice_entropy", "coverage_rise", "coverage_steps", "window")),
}  # fmt: skip
_PATHS = {"base_model", "adapter", "data.questions", "data.scores", "teacher.corpus"}
_HOSTS = {"retriever", "generator"}
_UNCHANGEABLE = "is not one of the fields that a request may override; a configuration's file may set all fields"
_OPTIMISER = ("lr", "lr_warmup_steps", "lr_warmup_steps_ratio", "weight_decay")
_PPO = ("ppo_mini_batch_size", "ppo_micro_batch_size_per_gpu", "ppo_max_token_len_per_gpu", "ppo_epochs",
        "use_dynamic_bsz", "loss_agg_mode")  # fmt: skip
_VERL = {
    *(f"algorithm.{name}" for name in (
        "adv_estimator", "gamma", "lam", "use_kl_in_reward", "norm_adv_by_std_in_grpo", "kl_ctrl.kl_coef",
        "filter_groups.enable", "filter_groups.max_inflight_gen_batches",
    )),
    *(f"data.{name}" for name in ("train_batch_size", "val_batch_size", "max_prompt_length", "max_response_length")),
    *(f"actor_rollout_ref.model.{name}" for name in ("lora_rank", "lora_alpha", "enable_gradient_checkpointing")),
    *(f"actor_rollout_ref.actor.{name}" for name in (
        *_PPO, "clip_ratio", "clip_ratio_low", "clip_ratio_high", "entropy_coeff", "use_kl_loss", "kl_loss_coef",
        "grad_clip", *(f"optim.{each}" for each in _OPTIMISER),
        "fsdp_config.param_offload", "fsdp_config.optimizer_offload",
    )),
    *(f"actor_rollout_ref.rollout.{name}" for name in (
        "temperature", "top_p", "top_k", "n", "gpu_memory_utilization", "max_num_seqs", "max_model_len",
        "max_num_batched_tokens", "enforce_eager", "tensor_model_parallel_size",
        "log_prob_micro_batch_size_per_gpu",
    )),
    "actor_rollout_ref.ref.fsdp_config.param_offload",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
    *(f"critic.{name}" for name in (
        *_PPO, "cliprange_value", "grad_clip", "model.enable_gradient_checkpointing",
        *(f"optim.{each}" for each in _OPTIMISER), "fsdp.param_offload", "fsdp.optimizer_offload",
    )),
    *(f"trainer.{name}" for name in (
        "n_gpus_per_node", "nnodes", "total_training_steps", "total_epochs", "save_freq", "test_freq",
        "critic_warmup", "val_before_train",
    )),
}  # fmt: skip


@dataclass(frozen=True)
class Admission:
    """Admits runs. `configs` is a folder of configurations beside the shipped ones.

    An override may name files below `folders` or, as a relative path, below `start`, where runs start; and services
    among `services`.
    """

    start: Path
    configs: Path | None = None
    folders: Sequence[Path] = ()
    services: Sequence[str] = ()

    def config(self, name: str, overrides: Mapping[str, Any]) -> RunConfig:
        """Returns the configuration of that name with its fields replaced. Raises ConfigProblem."""
        if name not in (names := self._names()):
            raise ConfigProblem("", f"no configuration {name[:100]!r}; there are {', '.join(names)}")
        for field, value in overrides.items():
            self._check(field, value)
        own = self.configs / f"{name}.yaml" if self.configs else None
        return run_config.load(str(own) if own and own.is_file() else name, overrides)

    def _names(self) -> list[str]:
        folders = [run_config.FOLDER, *([self.configs] if self.configs else [])]
        return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})

    def _check(self, field: str, value: Any) -> None:
        option = field.removeprefix("verl.")
        if field in _PATHS:
            for path in value if isinstance(value, list) else [value]:
                self._check_path(field, path)
        elif field in _HOSTS:
            named = addresses.several(addresses.model_at(value)[0]) if isinstance(value, str) else [""]
            if not all(address in self.services for address in named):
                raise ConfigProblem(field, f"must be one of {', '.join(self.services) or 'none'} (TRAINER_SERVICES)")
        elif option != field:
            if option not in _VERL:
                raise ConfigProblem(field, _UNCHANGEABLE)
            if not isinstance(value, bool | int | float) and not _is_word(value):
                raise ConfigProblem(field, "must be a number, true, false or a word")
        elif field not in _FIELDS and not field.startswith("agent_parameters."):
            raise ConfigProblem(field, _UNCHANGEABLE)

    def _check_path(self, field: str, path: object) -> None:
        if path == "" and field != "base_model":
            return
        if not isinstance(path, str) or "://" in path or "\0" in path:
            raise ConfigProblem(field, "must be a path")
        if field == "base_model" and not path.startswith(("/", ".")):
            raise ConfigProblem(field, "a hub id cannot be overridden by a request; set it in a configuration's file")
        try:  # links count as what they lead to, where this machine has them
            whole = Path(os.path.normpath(self.start / path)).resolve()
        except (OSError, RuntimeError):  # a loop of links
            raise ConfigProblem(field, "must be a path") from None
        if not any(whole.is_relative_to(folder.resolve()) for folder in (self.start, *self.folders)):
            raise ConfigProblem(field, "must lie below the folder where runs start, or below one of TRAINER_FOLDERS")


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(_WORD.fullmatch(value))
