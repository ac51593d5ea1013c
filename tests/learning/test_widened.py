"""A model of a larger shape computes what the small one computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bench import dummy_model, widened
from tests.learning.model import write_model

SMALL = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6}
LARGE = {
    "hidden_size": 256, "intermediate_size": 300, "num_hidden_layers": 3, "num_attention_heads": 16,
    "num_key_value_heads": 4,
}  # fmt: skip


def small(folder: Path) -> LlamaForCausalLM:
    write_model(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        **SMALL, vocab_size=300, num_key_value_heads=2, head_dim=8, initializer_range=0.3, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    model.save_pretrained(folder)
    return model


def test_it_answers_like_the_small_model_with_its_adapter(tmp_path: Path) -> None:
    base = tmp_path / "small"
    terms = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    bare = small(base)
    ids = torch.arange(40)[None] * 7 % 300
    with torch.no_grad():
        plain = bare(input_ids=ids).logits
        model: Any = get_peft_model(bare, terms)
        model.save_pretrained(tmp_path / "adapter")
        expected = model(input_ids=ids).logits
        dummy_model.write_like(tmp_path / "large", base, tmp_path / "adapter", LARGE)
        large = AutoModelForCausalLM.from_pretrained(tmp_path / "large", dtype=torch.float32)
        found = large(input_ids=ids).logits
    assert large.model.layers[0].self_attn.q_proj.weight.shape == (256, 256)
    rough = 0.05 * expected.std()  # the large weights are bfloat16
    assert (found - expected).abs().mean() < rough < (plain - expected).abs().mean()
    assert all(weight.count_nonzero() == weight.numel() for weight in large.parameters())


def test_a_shape_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_hidden_layers"):
        widened.config(small(tmp_path).config, LARGE | {"num_hidden_layers": 1})
    with pytest.raises(ValueError, match="heads"):
        widened.config(small(tmp_path).config, LARGE | {"num_attention_heads": 8})
