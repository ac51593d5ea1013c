"""verl's trainer, with what training a searcher adds: dropped samples, metrics, and a log that survives a resume."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.logging_utils import configure_verl_logging
from verl.utils.seqlen_balancing import log_seqlen_unbalance

from common import run_config
from common.files import append_whole
from learning.packing import over_ranks
from learning.samples import RunStopped, settle
from learning.stopping import reason_to_stop


class Sampler(ReplayBuffer):
    """Gives verl a step's samples without the failed ones, which then affect neither the loss nor their group.

    verl fills up the batch with samples of weight 0. With `algorithm.filter_groups` it replaces questions whose samples
    all have the same reward, which teach nothing, until the batch is full. It never replaces a question because a
    sample failed.
    """

    def __init__(self, *, sampler_kwargs: DictConfig, **kwargs: Any) -> None:
        if filtering := sampler_kwargs.get("filtering"):
            kwargs |= {"filter_groups_metric": "reward", "gen_batch_size": 1, **filtering}  # 1: as verl's loader then
        super().__init__(sampler_kwargs=sampler_kwargs, poll_interval=0.2, **kwargs)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Raises RunStopped if too many samples failed."""
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        terms = self.sampler_kwargs
        training = partition_id == "train"
        found = tq.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=["extra_fields"])
        settled = settle(
            [key.split("_")[0] for key in batch.keys],
            [getattr(extra, "data", extra) for extra in found["extra_fields"]],
            expected=batch_size * (terms.samples if training else terms.validation_samples),
            smallest_group=terms.smallest_group if training else 1,
            max_failed_share=terms.max_failed_share,
            step=global_steps,
            drop_even=training and terms.drop_even,
        )
        if settled.dropped:
            tq.kv_clear(keys=[batch.keys[place] for place in settled.dropped], partition_id=partition_id)
        batch = KVBatchMeta(
            partition_id=partition_id,
            keys=[batch.keys[place] for place in settled.kept],
            tags=[batch.tags[place] for place in settled.kept],
        )
        return batch, {**metrics, **settled.metrics}


class MetricsFile:
    """A backend of verl's `Tracking` that appends lines {"step", "data"} to a file.

    verl's own backend empties its file when it opens it, so a resumed run would lose the earlier steps.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def log(self, data: dict[str, Any], step: int) -> None:
        numbers = {name: float(value) for name, value in data.items() if _is_number(value)}
        with self._path.open("ab", buffering=0) as file:
            append_whole(file, json.dumps({"step": step, "data": numbers}).encode() + b"\n")

    def steps(self) -> list[dict[str, float]]:
        """Returns the metrics of the training steps so far, in order; a step that was done again has its latest.

        A line that a killed process tore, which has the next one at its end, is left out.
        """
        found: dict[int, dict[str, float]] = {}
        if self._path.exists():
            for line in self._path.read_bytes().split(b"\n"):
                with suppress(ValueError, KeyError, TypeError):
                    record = json.loads(line)
                    found.setdefault(record["step"], {}).update(record["data"])
        return [found[step] for step in sorted(found) if step > 0]  # 0 is the validation before training

    def finish(self) -> None:
        """Does nothing: no file is held open."""


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


class Trainer(PPOTrainerSync):
    """verl's synchronous trainer, which also writes RUN/metrics.jsonl and obeys the run's stop rules."""

    def on_validate_begin(self) -> None:
        self._write_metrics()
        super().on_validate_begin()

    def on_train_begin(self) -> None:
        self._write_metrics()
        super().on_train_begin()

    def on_step_end(self) -> None:
        """Raises RunStopped if the steps so far break a stop rule, after this step's checkpoint has been saved."""
        rules = run_config.load(str(self._folder / "config.yaml")).stop
        if reason := reason_to_stop(self.logger.logger["file"].steps(), rules):
            self._save_checkpoint()
            raise RunStopped(f"step {self.global_steps}: {reason}")
        super().on_step_end()

    def _balance_batch(
        self, batch: KVBatchMeta, metrics: dict[str, Any], logging_prefix: str = "global_seqlen", **terms: Any
    ) -> KVBatchMeta:
        """Divides the samples over the GPUs so that those of a question, which share its prompt, stay together.

        verl divides them by length alone, and every GPU then computes nearly every prompt.
        """
        given = {key: place for place, key in enumerate(batch.keys)}
        batch = super()._balance_batch(batch, metrics, logging_prefix, **terms)
        # verl has reordered the samples and added padding: restore their order, padding last.
        batch.reorder(sorted(range(len(batch)), key=lambda place: given.get(batch.keys[place], len(given))))
        trained = self.config.actor_rollout_ref
        mini_batch = trained.actor.ppo_mini_batch_size * trained.rollout.n
        parts = over_ranks(
            [key.split("_")[0] for key in batch.keys],
            [tag["prompt_len"] for tag in batch.tags],
            [tag["response_len"] for tag in batch.tags],
            # while only the critic learns, verl does not fill the batch up to the actor's mini-batches
            mini_batch=len(batch) if len(batch) % mini_batch else mini_batch,
            ranks=max(self.actor_rollout_wg._dispatch_info["actor"]) + 1,
        )
        metrics.update(log_seqlen_unbalance([tag["seq_len"] for tag in batch.tags], parts, logging_prefix))
        batch.reorder([place for part in parts for place in part])
        return batch

    @property
    def _folder(self) -> Path:
        return Path(self.config.trainer.default_local_dir).parent

    def _write_metrics(self) -> None:
        # `fit` makes the logger; these are its first hooks after that, and nothing is logged before them
        self.logger.logger.setdefault("file", MetricsFile(self._folder / "metrics.jsonl"))


@ray.remote
class Runner:
    """The task that verl's `run_ppo` starts: `TaskRunnerV1` with our trainer."""

    def run(self, config: DictConfig) -> None:
        configure_verl_logging()
        config.transfer_queue.enable = True
        OmegaConf.resolve(config)
        tq.init(config.transfer_queue)
        try:
            trainer = Trainer(config)
            trainer.init()
            loops = AgentLoopManagerTQ.create(
                config=config,
                llm_client=trainer.get_llm_client(),
                teacher_client=trainer.get_teacher_client(),
                reward_loop_worker_handles=trainer.get_reward_handles(),
            )
            try:
                trainer.fit(loops)
            finally:
                if tracking := getattr(trainer, "logger", None):  # `fit` makes it
                    tracking.finish()
        finally:
            tq.close()
