"""Our attention gives what transformers' own gives, which masks the padding."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from learning.attention import CAUSAL


def model(implementation: str) -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 50, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**shape, **heads, attn_implementation=implementation))


def test_padding_behind_changes_nothing() -> None:
    lengths = torch.tensor([11, 4, 7])
    ids = torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(11)[None] < lengths[:, None]
    both = []
    for implementation in ("sdpa", CAUSAL):
        ours = model(implementation)
        logits = ours(input_ids=ids, attention_mask=mask.int(), use_cache=False).logits[mask]
        logits.logsumexp(-1).sum().backward()
        both.append((logits, ours.model.layers[0].self_attn.k_proj.weight.grad))
    for theirs, mine in zip(*both, strict=True):
        assert torch.allclose(theirs, mine, atol=1e-5)
    assert both[0][1].abs().max() > 1e-3


def test_it_refuses_to_generate() -> None:
    with pytest.raises(ValueError, match="for training: 1 queries and 4 keys"):
        model(CAUSAL).generate(torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 3), max_new_tokens=3)


def test_packed_samples_do_not_see_each_other() -> None:
    lengths = [11, 4, 7]
    samples = [torch.randint(0, 50, (length,), generator=torch.Generator().manual_seed(length)) for length in lengths]
    alone, packed = model("sdpa"), model(CAUSAL)
    expected = torch.cat([alone(input_ids=sample[None], use_cache=False).logits[0] for sample in samples])
    positions = torch.cat([torch.arange(length) for length in lengths])
    row = torch.cat(samples)
    logits = packed(input_ids=row[None], position_ids=positions[None], use_cache=False).logits[0]
    assert torch.allclose(logits, expected, atol=1e-5)
    grads = []
    for ours, values in ((alone, expected), (packed, logits)):
        values.logsumexp(-1).sum().backward()
        grads.append(ours.model.layers[0].self_attn.k_proj.weight.grad)
    assert torch.allclose(*grads, atol=1e-5)
    assert grads[0].abs().max() > 1e-3


def test_one_sample_in_a_row_is_causal_as_ever() -> None:
    sample = torch.randint(0, 50, (1, 9), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(9)[None]
    theirs = model("sdpa")(input_ids=sample, use_cache=False).logits
    ours = model(CAUSAL)(input_ids=sample, position_ids=positions, use_cache=False).logits
    assert torch.allclose(theirs, ours, atol=1e-5)
