"""From a checkpoint as verl saves it to the adapter that llama.cpp loads."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from common import model_card, run_config
from common.run_config import ConfigProblem
from learning.train import options
from learning.weights import merge_start, write_weights
from services.generator.lora import AdapterProblem, Architecture, to_gguf
from tests.learning.model import write_model

torch = pytest.importorskip("torch")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Writes a run with one checkpoint of a LoRA on a tiny model, as FSDP on one GPU saves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    base = write_model(tmp_path / "base")
    folder = tmp_path / "run"
    actor = folder / "checkpoints" / "global_step_4" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base)), lora)
    torch.save(model.state_dict(), actor / "model_world_size_1_rank_0.pt")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 1, "world_size": 1}))
    (actor / "lora_train_meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}))
    saved = AutoConfig.from_pretrained(base)
    saved.attn_implementation = "causal_sdpa"  # verl saves how it was trained
    saved.save_pretrained(actor / "huggingface")
    AutoTokenizer.from_pretrained(base).save_pretrained(actor / "huggingface")
    settings = run_config.load("smollm2-demo", {"base_model": str(base), "data.part": (0.6, 0.95)})
    (folder / "config.yaml").write_text(run_config.dump(settings))
    return folder


def test_a_checkpoint_becomes_an_adapter_for_llama_cpp(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "global_step_4"
    settings = run_config.load(str(run / "config.yaml"))
    (run / "metrics.jsonl").write_text('{"step": 4, "data": {"search/gain": 0.25, "actor/lr": 1}}\n{"step": 5, "da')
    write_weights(settings, run)
    assert sorted(path.name for path in checkpoint.iterdir()) == ["actor", "lora_adapter"]
    card = model_card.read(checkpoint / "lora_adapter")
    assert (card.method, card.data) == ("s3", ("qa_train.jsonl.gz 0.6-0.95",))
    assert settings.method.as_taught(card) == settings.method
    assert (card.base_model, card.figures) == (model_card.base_of(tmp_path / "base"), {"step": 4, "search/gain": 0.25})
    reader = gguf.GGUFReader(
        to_gguf(checkpoint / "lora_adapter", Architecture("llama", 2, 2), tmp_path / "adapter.gguf")
    )
    saved = torch.load(checkpoint / "actor" / "model_world_size_1_rank_0.pt")
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.default.weight"
    found = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    assert len(found) == 2 * 7 * 2  # layers, projections, sides
    np.testing.assert_array_equal(found["blk.1.ffn_down.weight.lora_b"], saved[name].bfloat16().half().numpy())
    assert reader.fields["adapter.lora.alpha"].parts[-1][0] == 8
    write_weights(settings, run)  # files that exist stay


def test_a_checkpoint_without_an_adapter_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterProblem, match="lora_adapter"):
        to_gguf(
            run / "checkpoints" / "global_step_4" / "lora_adapter",
            Architecture("llama", 2, 2),
            tmp_path / "adapter.gguf",
        )


def test_a_run_of_all_weights_starts_from_the_merged_adapter_and_leaves_models(run: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    base = tmp_path / "base"
    bare = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    bare.save_pretrained(base)
    before = bare.state_dict()["model.layers.1.mlp.down_proj.weight"].clone()
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    warm = get_peft_model(bare, lora)
    warm.save_pretrained(tmp_path / "warm")
    changes = {"adapter": str(tmp_path / "warm"), "verl.actor_rollout_ref.model.lora_rank": 0}
    settings = run_config.load(str(run / "config.yaml"), changes)
    merge_start(settings, run)
    merge_start(settings, run)  # one that exists stays
    started = AutoModelForCausalLM.from_pretrained(run / "start")
    name = "model.layers.1.mlp.down_proj.weight"
    expected = warm.merge_and_unload().state_dict()[name]
    torch.testing.assert_close(started.state_dict()[name], expected)
    assert not torch.equal(expected, before)
    chosen = options(settings, run)
    assert chosen["actor_rollout_ref.model.path"] == str(run / "start")
    assert "actor_rollout_ref.model.lora_adapter_path" not in chosen

    checkpoint = run / "checkpoints" / "global_step_4"
    torch.save(started.state_dict(), checkpoint / "actor" / "model_world_size_1_rank_0.pt")
    write_weights(settings, run)
    assert sorted(path.name for path in checkpoint.iterdir()) == ["actor", "model"]
    assert "attn_implementation" not in (checkpoint / "model" / "config.json").read_text()
    written = AutoModelForCausalLM.from_pretrained(checkpoint / "model").state_dict()[name]
    assert torch.equal(written, expected.bfloat16().to(written.dtype))
    card = model_card.read(checkpoint / "model")
    assert (card.method, card.base_model, card.figures) == ("s3", "", {"step": 4})


def test_an_adapter_that_cannot_be_merged_is_told(run: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PrefixTuningConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    def model(**changed: int) -> Any:
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "base", **changed))

    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model().save_pretrained(tmp_path / "base")
    get_peft_model(model(num_hidden_layers=3), lora).save_pretrained(tmp_path / "deeper")
    get_peft_model(model(hidden_size=128), lora).save_pretrained(tmp_path / "wider")
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(model(), prefix).save_pretrained(tmp_path / "prefix")
    for name, problem in (
        ("deeper", r"which has no .*layers\.2\."),
        ("wider", "size mismatch"),
        ("prefix", "not a LoRA adapter, but PREFIX_TUNING"),
        ("missing", "there is no folder .*missing"),
    ):
        changes = {"adapter": str(tmp_path / name), "verl.actor_rollout_ref.model.lora_rank": 0}
        with pytest.raises(ConfigProblem, match=problem) as caught:
            merge_start(run_config.load(str(run / "config.yaml"), changes), run)
        assert caught.value.field == "adapter"
        assert not (run / "start").exists()
