"""verl's trainer as we use it: configurations it accepts, a log that continues, and where a run resumes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl")

import numpy as np
import torch
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.trainer.ppo.utils import create_rl_dataset, need_critic, need_reference_policy
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.rl_dataset import collate_fn
from verl.utils.tracking import Tracking

from common import run_config
from common.run_config import ConfigProblem
from learning import data, train
from learning.episodes import example_of
from learning.ppo import MetricsFile, Trainer
from learning.rollout import NAME
from learning.samples import CHOICE, DROPPED, settle
from search_agent.world import World
from tests.fakes import Generator, Retriever
from tests.learning.model import write_model

# verl asks vLLM for the greatest adapter rank, and vLLM is not installed here


def composed(folder: Path, name: str, overrides: dict[str, Any]) -> Any:
    run = run_config.load(name, {"base_model": str(write_model(folder / "model")), **overrides})
    return train.compose(train.options(run, folder))


@pytest.mark.parametrize("name", [file.stem for file in run_config.FOLDER.glob("*.yaml")])
def test_verl_accepts_each_configuration(tmp_path: Path, name: str) -> None:
    whole = composed(tmp_path, name, {})
    for part in ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model", "algorithm"):
        assert omega_conf_to_dataclass(OmegaConf.select(whole, part))
    if whole.algorithm.adv_estimator == "gae":
        critic = omega_conf_to_dataclass(whole.critic)
        assert critic.model.hf_config._attn_implementation == "causal_sdpa"
    assert whole.actor_rollout_ref.rollout.seed == whole.data.seed
    model = omega_conf_to_dataclass(whole.actor_rollout_ref.model)
    assert model.use_fused_kernels
    assert model.hf_config._attn_implementation == "causal_sdpa"


def test_verl_accepts_ppo_as_documented(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    command = document.partition("train start multihop --set name=multihop-ppo")[2].partition("```")[0]
    values = dict(word.split("=", 1) for word in shlex.split(command.replace("\\\n", " ")) if word != "--set")
    plain = {"reward.kind", "verl.algorithm.adv_estimator"}
    overrides = {name: value if name in plain else json.loads(value) for name, value in values.items()}
    overrides["verl.actor_rollout_ref.actor.ppo_max_token_len_per_gpu"] = 12345
    assert run_config.load("multihop", overrides).reward.coverage_weight == {1: 0}
    whole = composed(tmp_path, "multihop", overrides)
    critic = omega_conf_to_dataclass(whole.critic)
    assert (critic.engine.strategy, critic.optim.lr, critic.model.enable_gradient_checkpointing) == (
        "fsdp2",
        5e-5,
        False,
    )
    assert (critic.use_dynamic_bsz, critic.shuffle, critic.ppo_mini_batch_size) == (True, False, 64)
    assert critic.model.hf_config._attn_implementation == "causal_sdpa"
    limit = whole.actor_rollout_ref.actor.ppo_max_token_len_per_gpu
    assert critic.ppo_max_token_len_per_gpu == critic.ppo_infer_max_token_len_per_gpu == limit == 12345
    assert (need_critic(whole), need_reference_policy(whole)) == (True, False)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("actor_rollout_ref.actor.no_such_option", 1),
        ("actor_rollout_ref.rollout.gpu_memory", 0.3),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", 4096),
        ("critic", 3),
    ],
)
def test_a_wrong_option_of_verl_is_named(tmp_path: Path, option: str, value: object) -> None:
    with pytest.raises(ConfigProblem) as problem:
        composed(tmp_path, "smollm2-demo", {f"verl.{option}": value})
    assert problem.value.field in ("verl", f"verl.{option}")


def test_an_option_of_the_engine_passes_through(tmp_path: Path) -> None:
    name = "+actor_rollout_ref.rollout.engine_kwargs.vllm.kernel_config"
    whole = composed(tmp_path, "smollm2-demo", {f"verl.{name}": {"enable_flashinfer_autotune": False}})
    assert whole.actor_rollout_ref.rollout.engine_kwargs.vllm.kernel_config == {"enable_flashinfer_autotune": False}


@pytest.mark.parametrize(("questions", "epochs", "steps"), [(239, 1, 2), (119, 9, 1), (119, 9, None)])
def test_steps_that_the_questions_do_not_make_are_refused(
    tmp_path: Path, questions: int, epochs: int, steps: int | None
) -> None:
    # of these, verl trains 1, 0 and 0
    wanted = {"verl.trainer.total_epochs": epochs, "verl.trainer.total_training_steps": steps}
    whole = composed(tmp_path, "s3-8-3-3", wanted)
    with pytest.raises(ConfigProblem) as problem:
        train.check_steps(whole, questions)
    assert problem.value.field == "verl.trainer.total_training_steps"
    train.check_steps(whole, 240)


@pytest.mark.parametrize(("gpus", "fits"), [(5, True), (6, True), (4, False), (8, False)])
def test_gpus_that_cannot_share_a_mini_batch_are_refused(tmp_path: Path, gpus: int, fits: bool) -> None:
    whole = composed(tmp_path, "s3-8-3-3", {"verl.trainer.n_gpus_per_node": gpus})
    if fits:
        train.check_gpus(whole)
    else:
        with pytest.raises(ConfigProblem, match=rf"30 samples \(30 questions of 1\) .* over {gpus} GPUs") as problem:
            train.check_gpus(whole)
        assert problem.value.field == "verl.actor_rollout_ref.actor.ppo_mini_batch_size"


def test_a_run_resumes_from_its_last_whole_checkpoint(tmp_path: Path) -> None:
    whole = composed(tmp_path, "smollm2-demo", {})
    checkpoints = Path(whole.trainer.default_local_dir)
    assert checkpoints == tmp_path / "checkpoints"
    assert whole.trainer.resume_mode == "auto"
    assert find_latest_ckpt_path(str(checkpoints)) is None
    for step in (20, 40):
        (checkpoints / f"global_step_{step}").mkdir(parents=True)
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("20")  # killed while it wrote the second
    assert find_latest_ckpt_path(str(checkpoints)) == str(checkpoints / "global_step_20")


async def test_verls_dataset_reads_our_rows(tmp_path: Path) -> None:
    whole = composed(tmp_path, "smollm2-demo", {})
    path = tmp_path / "questions.jsonl"
    path.write_text(
        "".join(
            f'{{"id": "{n}", "question": "Q {n}?", "golden_answers": ["x"], "metadata": {{"passage_id": "p{n}"}}}}\n'
            for n in range(9)
        )
    )
    run = run_config.load(
        "smollm2-demo", {"data.questions": str(path), "data.part": (0, 1), "data.validation": 3, "data.keep": "all"}
    )
    await data.prepare(run, tmp_path / "data", World(Retriever(), generator=Generator("x")))
    tokenizer = omega_conf_to_dataclass(whole.actor_rollout_ref.model).tokenizer
    dataset = create_rl_dataset(whole.data.train_files, whole.data, tokenizer, None, is_train=True)
    assert len(dataset) == data.rows(tmp_path / "data" / data.TRAIN) == 6
    batch = collate_fn([dataset[0], dataset[1]])
    example = example_of(json.loads(batch["reward_model"][0]["ground_truth"]))
    assert batch["raw_prompt"][0] == [{"role": "user", "content": example.question.text}]
    assert list(batch["agent_name"]) == [NAME, NAME]
    assert list(batch["index"]) == [0, 1]


def test_metrics_are_added_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for steps in ((1, 2), (2, 3)):  # killed after a checkpoint of step 1
        tracking = Tracking("search-agent", "test", default_backend=["console"], config={})
        tracking.logger["file"] = MetricsFile(path)
        for step in steps:
            tracking.log({"search/gain": np.float64(step / 10), "loss": torch.tensor(1.5), "note": "text"}, step)
        tracking.finish()
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2, 3]
    assert lines[-1]["data"] == {"search/gain": pytest.approx(0.3), "loss": 1.5}
    with path.open("a") as file:
        file.write('{"step": 4, "da{"step": 4, "data": {"search/gain": 0.4}}\n')  # killed while it wrote, then resumed
    assert [step["search/gain"] for step in MetricsFile(path).steps()] == pytest.approx([0.1, 0.2, 0.3])


def test_a_dropped_sample_does_not_move_its_groups_baseline() -> None:
    scores = (1.0, 0.0, 1.0)
    fields: list[dict[str, Any]] = [
        {"reward_extra_info": {"reward": score, "searches": 1.0}, CHOICE: ""} for score in scores
    ]
    fields.insert(1, {DROPPED: "retriever: timeout", "reward_extra_info": {}})
    groups = ["a"] * 4

    def advantages(scores: list[float]) -> list[float]:
        rewards, mask = torch.tensor(scores).unsqueeze(1), torch.ones(len(scores), 1)
        return compute_grpo_outcome_advantage(rewards, mask, np.array(["a"] * len(scores)))[0].flatten().tolist()

    kept = settle(groups, fields, 4, 2, 0.5, 1).kept
    left = [fields[place]["reward_extra_info"]["reward"] for place in kept]
    assert advantages(left) == advantages([1.0, 0.0, 1.0])


def balanced(
    questions: list[str], lengths: list[int], ranks: int, critic_warmup: int = 0
) -> tuple[list[str], dict[str, Any]]:
    """Returns the keys of samples as the trainer orders them for so many GPUs, mini-batches of two questions by two."""
    trainer = Trainer.__new__(Trainer)
    terms = {"actor": {"ppo_mini_batch_size": 2}, "rollout": {"n": 2}}
    trainer.config = OmegaConf.create({"actor_rollout_ref": terms, "trainer": {"critic_warmup": critic_warmup}})
    trainer.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": list(range(ranks))})
    trainer.use_critic, trainer.global_steps = False, 1
    trainer.tokenizer = SimpleNamespace(eos_token_id=0)
    keys = [f"{question}_{number}_0" for number, question in enumerate(questions)]
    tags = [{"prompt_len": 9, "response_len": length, "seq_len": 9 + length} for length in lengths]
    metrics: dict[str, Any] = {}
    return trainer._balance_batch(KVBatchMeta(partition_id="train", keys=keys, tags=tags), metrics).keys, metrics


def test_samples_of_a_question_stay_on_one_gpu() -> None:
    questions, lengths = ["a", "a", "b", "b", "c", "c", "d", "d"], [1, 9, 2, 9, 3, 3, 1, 1]
    keys, metrics = balanced(questions, lengths, ranks=2)
    halves = [[key[0] for key in keys[:4]], [key[0] for key in keys[4:]]]
    assert halves == [["b", "b", "c", "c"], ["a", "a", "d", "d"]]  # b and a make up the first mini-batch
    assert (metrics["global_seqlen/balanced_min"], metrics["global_seqlen/balanced_max"]) == (48, 53)


def test_while_only_the_critic_learns_the_batch_is_one_mini_batch() -> None:
    questions, lengths = ["a", "a", "b", "b", "c", "c"], [1, 9, 2, 9, 3, 3]
    keys, _ = balanced(questions, lengths, ranks=2, critic_warmup=5)
    assert sorted(keys) == ["a_0_0", "a_1_0", "b_2_0", "b_3_0", "c_4_0", "c_5_0"]
    assert {"b_2_0", "b_3_0"} <= set(keys[:3])


def test_one_gpu_gets_the_samples_as_they_come() -> None:
    questions, lengths = ["b", "b", "a", "a"], [5, 1, 3, 2]
    assert balanced(questions, lengths, ranks=1)[0] == ["b_0_0", "b_1_0", "a_2_0", "a_3_0"]
