"""The engines give what each sample by itself gives: log-probabilities, entropies, values and gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tensordict import TensorDict
from torch import multiprocessing
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification
from verl.plugin.platform import get_platform, set_platform
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl.trainer.config import CheckpointConfig
from verl.trainer.ppo.core_algos import compute_gae_advantage_return
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig, CriticConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.utils.losses import ppo_loss, value_loss
from verl.workers.utils.padding import response_from_nested, response_to_nested

from bench.updates import on_cpu
from common import run_config
from learning import weights
from learning.attention import CAUSAL
from learning.engine import Actor, Critic
from tests.learning.model import write_model

ENGINES = {"language_model": Actor, "value_model": Critic}
ACTOR = ActorConfig(
    strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, entropy_coeff=0.1, ppo_micro_batch_size_per_gpu=1
)
CRITIC = CriticConfig(strategy="fsdp2", ppo_micro_batch_size_per_gpu=1)
PROMPTS = (9, 1, 5, 9)  # two of the same length
ADAPTED = "model.layers.0.self_attn.q_proj.weight"
SAMPLES = ((0, 7), (1, 4), (0, 3), (2, 6), (0, 1), (1, 5), (3, 8))  # prompt and length of the response


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with on_cpu(tmp_path_factory.mktemp("store") / "file"):
        yield


def data(**extra: Any) -> TensorDict:
    """Returns a mini-batch as verl hands it to an engine."""
    dice = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 300, (length,), generator=dice) for length in PROMPTS]
    columns: dict[str, list[torch.Tensor]] = {}
    for prompt, length in SAMPLES:
        response = torch.randint(0, 300, (length,), generator=dice)
        learned = (torch.rand(length, generator=dice) < 0.6).long()
        numbers = ("old_log_probs", "advantages", "values", "returns")
        sample = {name: torch.randn(length, generator=dice) for name in numbers}
        sample |= {
            "prompts": prompts[prompt],
            "responses": response,
            "input_ids": torch.cat([prompts[prompt], response]),
        }
        sample |= {"response_mask": learned, "loss_mask": learned}
        sample["position_ids"] = torch.arange(len(sample["input_ids"]))
        for name, value in sample.items():
            columns.setdefault(name, []).append(value)
    nested = {name: torch.nested.as_nested_tensor(column, layout=torch.jagged) for name, column in columns.items()}
    batch = TensorDict(nested, batch_size=len(SAMPLES))
    terms = {"use_dynamic_bsz": True, "max_token_len_per_gpu": 24, "temperature": 0.7, "calculate_entropy": True}
    return tu.assign_non_tensor(batch, global_batch_size=len(SAMPLES), **(terms | extra))


def write_weights(folder: Path, kind: str) -> Path:
    write_model(folder)
    shape: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape["initializer_range"] = 0.2  # attention then depends on what it sees
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, **shape, **heads, max_position_embeddings=64, tie_word_embeddings=kind != "qwen2"
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_adapter(folder: Path, base: Path, **changes: Any) -> Path:
    torch.manual_seed(1)
    terms = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False, **changes}
    config = LoraConfig(task_type="CAUSAL_LM", **terms)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def engine(
    model: Path, role: str, adapter: Path | None = None, kind: type | None = None, checkpointed: bool = False
) -> Any:
    lora = {"lora_rank": 4, "lora_adapter_path": str(adapter)} if adapter else {}
    settings = HFModelConfig(
        path=str(model),
        override_config={"attn_implementation": CAUSAL},
        use_remove_padding=True,
        enable_gradient_checkpointing=checkpointed,
        **lora,
    )
    settings.model_type = role
    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    made = (kind or ENGINES[role])(
        settings,
        FSDPEngineConfig(strategy="fsdp2", mixed_precision=precision, use_torch_compile=False),
        FSDPOptimizerConfig(lr=1e-3, total_training_steps=10),
        CheckpointConfig(),
    )
    made.initialize()
    return made


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {name: getattr(grad, "full_tensor", lambda grad=grad: grad)() for name, grad in found.items()}


def flat(rows: list[torch.Tensor], batch: TensorDict) -> torch.Tensor:
    """Returns figures of response tokens as verl wants them: one place earlier, and one for each token (nested)."""
    lengths = [len(prompt) for prompt in batch["prompts"].unbind()]
    pairs = zip(rows, lengths, strict=True)
    whole = [torch.cat([torch.zeros(length - 1), row, torch.zeros(1)]) for row, length in pairs]
    return torch.nested.as_nested_tensor(whole, layout=torch.jagged)


def compare(
    ours: Any, theirs: torch.nn.Module, expected: dict[str, torch.Tensor], loss: Any, batch: TensorDict
) -> None:
    """Compares the engine's outputs, loss and gradients with those of a model that had each sample by itself."""
    with ours.eval_mode():
        found = ours.infer_batch(batch)["model_output"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].values(), value.detach().values(), atol=1e-5, rtol=1e-5)
    with ours.train_mode():
        outputs = ours.forward_backward_batch(batch, loss)
        mine = gradients(ours.module)
    whole, _ = loss(model_output=expected, data=batch)  # the engine has set what the loss needs of the whole batch
    whole.backward()
    assert sum(outputs["loss"]) == pytest.approx(whole.item(), abs=1e-5)
    assert mine.keys() == gradients(theirs).keys()
    for name, grad in gradients(theirs).items():
        torch.testing.assert_close(mine[name], grad, atol=1e-5, rtol=1e-5)
    assert max(grad.abs().max() for grad in mine.values()) > 1e-3


def compare_actor(ours: Any, theirs: Any, batch: TensorDict) -> None:
    log_probs, entropies = [], []
    columns = (batch[name].unbind() for name in ("input_ids", "prompts", "response_mask"))
    for ids, prompt, learned in zip(*columns, strict=True):
        logits = theirs(input_ids=ids[None], use_cache=False).logits[0]
        every = (logits / 0.7).log_softmax(-1)[len(prompt) - 1 : -1]
        log_probs.append(every.gather(1, ids[len(prompt) :, None])[:, 0] * learned)
        entropies.append(-(every.exp() * every).sum(-1) * learned)
    expected = {"log_probs": flat(log_probs, batch), "entropy": flat(entropies, batch)}
    compare(ours, theirs, expected, partial(ppo_loss, config=ACTOR), batch)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("lora", [False, True])
def test_an_actor_gives_what_each_sample_by_itself_gives(tmp_path: Path, kind: str, lora: bool) -> None:
    base = write_weights(tmp_path / "base", kind)
    adapter = write_adapter(tmp_path / "adapter", base) if lora else None
    theirs = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    if adapter:
        theirs = PeftModel.from_pretrained(theirs, str(adapter), is_trainable=True)
    ours, batch, seen = engine(base, "language_model", adapter), data(), []
    embeddings = ours.module.get_input_embeddings()
    embeddings.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))
    compare_actor(ours, theirs, batch)
    again = 2 * (9 - 1)  # the first prompt's tokens but the last, for its second and third sample
    assert sum(seen) / 2 == batch["input_ids"].values().numel() - len(SAMPLES) - again


def test_micro_batches_of_a_fixed_size_share_what_they_can(tmp_path: Path) -> None:
    base = write_weights(tmp_path / "base", "llama")
    theirs = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    ours = engine(base, "language_model")
    compare_actor(ours, theirs, data(use_dynamic_bsz=False, micro_batch_size_per_gpu=7))
    theirs.zero_grad()
    ours.optimizer_zero_grad()
    compare_actor(ours, theirs, data(max_token_len_per_gpu=1000))


def test_a_model_that_is_not_known_is_packed_as_verl_packs_it(tmp_path: Path) -> None:
    base = write_weights(tmp_path / "base", "mistral")
    ours, verls = engine(base, "language_model"), engine(base, "language_model", kind=FSDPEngineWithLMHead)
    found = []
    for made in (ours, verls):
        with made.eval_mode():
            found.append(made.infer_batch(data())["model_output"])
    for name in ("log_probs", "entropy"):
        assert torch.equal(found[0][name].values(), found[1][name].values())


def test_a_critic_gives_what_each_sample_by_itself_gives(tmp_path: Path) -> None:
    base = write_weights(tmp_path / "base", "llama")
    ours = engine(base, "value_model")
    theirs = AutoModelForTokenClassification.from_pretrained(
        base, num_labels=1, attn_implementation="sdpa"
    ).eval()  # without dropout
    theirs.load_state_dict({name: weight.full_tensor() for name, weight in ours.module.state_dict().items()})
    batch = data()
    values = []
    columns = (batch[name].unbind() for name in ("input_ids", "prompts", "response_mask"))
    for ids, prompt, learned in zip(*columns, strict=True):
        values.append(theirs(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1, 0] * learned)
    compare(ours, theirs, {"values": flat(values, batch)}, partial(value_loss, config=CRITIC), batch)


def test_a_micro_batch_in_which_nothing_is_learned_changes_nothing(tmp_path: Path) -> None:
    """verl fills a batch up with samples of which nothing is learned."""
    base = write_weights(tmp_path / "base", "llama")
    theirs = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    batch = data(max_token_len_per_gpu=1)  # each sample by itself
    for name in ("response_mask", "loss_mask"):
        batch[name].values()[-8:] = 0
    compare_actor(engine(base, "language_model"), theirs, batch)


def test_a_checkpoint_of_all_weights_becomes_a_model(tmp_path: Path) -> None:
    base, checkpoint = write_weights(tmp_path / "base", "llama"), tmp_path / "checkpoints" / "global_step_1"
    made = engine(base, "language_model")
    with made.train_mode():
        made.train_batch(data(), partial(ppo_loss, config=ACTOR))
    made.save_checkpoint(str(checkpoint / "actor"), global_step=1)
    weights.write_weights(run_config.load("multihop-full", {"base_model": str(base)}), tmp_path)
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        for folder in (base, checkpoint / "model")
    )
    trained = {name: weight.full_tensor() for name, weight in made.module.state_dict().items()}
    assert after.keys() == trained.keys()
    for name, weight in trained.items():
        assert not torch.equal(weight, before[name])
        assert torch.equal(after[name], weight.bfloat16().float())


def test_steps_of_ppo_fit_the_critic_and_make_rewarded_episodes_likelier(tmp_path: Path) -> None:
    base = write_weights(tmp_path / "base", "llama")
    actor, critic, batch = engine(base, "language_model"), engine(base, "value_model"), data()
    mask = batch["response_mask"].to_padded_tensor(0)
    last = mask * (mask.flip(1).cumsum(1).flip(1) == 1)  # the last learned token has the episode's reward
    worth = torch.tensor([1.0, 0.0] * len(SAMPLES))[: len(SAMPLES)]

    def nested(rows: torch.Tensor) -> torch.Tensor:
        return response_to_nested(rows, batch["response_mask"])

    def found(made: Any, name: str) -> torch.Tensor:
        with made.eval_mode():
            return response_from_nested(made.infer_batch(batch)["model_output"][name], batch["response_mask"])

    def likelihood() -> torch.Tensor:
        return (found(actor, "log_probs").to_padded_tensor(0) * mask).sum(1)

    batch["old_log_probs"] = found(actor, "log_probs")
    before, losses = likelihood(), []
    for _ in range(3):
        batch["values"] = found(critic, "values")
        values = batch["values"].to_padded_tensor(0)
        advantages, returns = compute_gae_advantage_return(worth[:, None] * last, values, mask, gamma=1.0, lam=1.0)
        batch["advantages"], batch["returns"] = nested(advantages), nested(returns)
        for made, loss in ((critic, partial(value_loss, config=CRITIC)), (actor, partial(ppo_loss, config=ACTOR))):
            with made.train_mode():
                outputs = made.train_batch(batch, loss)
            assert outputs["metrics"]["grad_norm"] > 0
            losses += [sum(outputs["loss"])] if made is critic else []
    assert losses == sorted(losses, reverse=True)
    risen = likelihood() - before
    assert risen[worth == 1].mean() > risen[worth == 0].mean()


def served(made: Any) -> dict[str, torch.Tensor]:
    """Returns copies of what the rollouts' engine gets."""
    made.model_config.lora["merge"] = True
    weights, adapter = made.get_per_tensor_param()
    assert adapter is None
    return {name: weight.clone() for name, weight in weights}


def whole(made: Any) -> dict[str, torch.Tensor]:
    return {name: weight.full_tensor().clone() for name, weight in made.module.state_dict().items()}


def check_served(made: Any, base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Compares what the rollouts' engine gets with the merged model, and returns it."""
    before = whole(made)
    found = served(made)
    after = whole(made)
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).merge_and_unload()
    expected = {name: weight.bfloat16() for name, weight in merged.state_dict().items()}
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight)
    plain = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert not torch.equal(found[ADAPTED], plain[ADAPTED])
    return found


KINDS: list[dict[str, Any]] = [{}, {"use_dora": True}, {"lora_bias": True, "target_modules": ["q_proj", "k_proj"]}]


@pytest.mark.parametrize("terms", KINDS)
def test_rollouts_get_the_weights_with_the_adapter_added(tmp_path: Path, terms: dict[str, Any]) -> None:
    base = write_weights(tmp_path / "base", "qwen2")
    adapter = write_adapter(tmp_path / "adapter", base, **terms)
    made = engine(base, "language_model", adapter)
    found = check_served(made, base, adapter)
    if "use_dora" not in terms:  # which verl merges wrongly
        verls = dict(FSDPEngineWithLMHead._merged_lora_per_tensor_param(made))
        assert all(torch.equal(weight, verls[name]) for name, weight in found.items())


def serve_one_half(rank: int, folder: Path) -> None:
    with on_cpu(folder / "store", rank, 2):
        base, adapter = folder / "base", folder / "adapter"
        check_served(engine(base, "language_model", adapter), base, adapter)


@pytest.mark.parametrize("terms", KINDS[:2])
def test_rollouts_get_them_from_two_ranks(tmp_path: Path, terms: dict[str, Any]) -> None:
    write_adapter(tmp_path / "adapter", write_weights(tmp_path / "base", "llama"), **terms)
    on_two_ranks(serve_one_half, tmp_path)


def test_weights_for_rollouts_are_not_merged_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_weights(tmp_path / "base", "qwen3")
    made = engine(base, "language_model", write_adapter(tmp_path / "adapter", base))
    monkeypatch.setattr("verl.workers.engine.fsdp.transformer_impl.merged_lora_context", None)
    assert "model.embed_tokens.weight" in served(made)


def on_two_ranks(task: Callable[[int, Path], None], folder: Path) -> None:
    ranks = multiprocessing.spawn(task, (folder,), nprocs=2, join=False)
    ended = time.monotonic() + 400
    while not ranks.join(timeout=ended - time.monotonic()):
        assert time.monotonic() < ended


def learn_one_half(rank: int, folder: Path) -> None:
    """Learns from three of six samples, as one of two ranks; the first writes the gradients, which are of all six."""
    with on_cpu(folder / "store", rank, 2):
        batch = data(max_token_len_per_gpu=22)
        made = engine(folder / "base", "language_model", folder / "adapter", checkpointed=True)
        half = tu.index_select_tensor_dict(batch, list(range(3 * rank, 3 * rank + 3)))
        with made.train_mode():
            outputs = made.forward_backward_batch(half, partial(ppo_loss, config=ACTOR))
            found = gradients(made.module)
        assert (
            len(outputs["loss"]) == 2
        )  # the first rank's have 22 tokens and would fit into one; the second's 24 do not
        if rank == 0:
            torch.save(found, folder / "gradients.pt")


def test_two_ranks_give_the_gradients_of_one(tmp_path: Path) -> None:
    """As a model of billions of parameters is trained: with LoRA, layers computed again, weights read by one rank."""
    base = write_weights(tmp_path / "base", "qwen2")
    ours = engine(base, "language_model", write_adapter(tmp_path / "adapter", base))
    with ours.train_mode():
        ours.forward_backward_batch(
            tu.index_select_tensor_dict(data(), list(range(6))), partial(ppo_loss, config=ACTOR)
        )
        alone = gradients(ours.module)
    on_two_ranks(learn_one_half, tmp_path)
    both = torch.load(tmp_path / "gradients.pt")
    assert both.keys() == alone.keys()
    for name, grad in alone.items():
        torch.testing.assert_close(both[name], grad, atol=1e-6, rtol=1e-5)


def test_verl_finds_the_engines() -> None:
    verls = get_platform()
    set_platform(PlatformCUDA())
    try:
        for role, kind in ENGINES.items():
            assert EngineRegistry.get_engine_cls(role, "fsdp2") is kind
    finally:
        set_platform(verls)
