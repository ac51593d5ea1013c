"""Makes a model of a larger shape that computes what a small one of the Llama architecture computes.

Episodes of a 7B shape then have the turns, searches and lengths of the small model's, where random weights would write
no move. The small weights lie in the first rows and columns of the large ones. All others are random and too small to
matter, so that no multiplication is one by zeros.
"""

from __future__ import annotations

import math
from typing import Any

import torch

_TINY = 1e-5  # standard deviation of weights that are to change nothing


def config(small: Any, shape: dict[str, int]) -> Any:
    """Returns the small model's configuration in another shape. Raises ValueError if that is too small for it."""
    from transformers import LlamaConfig

    kept = small.to_dict() | {"tie_word_embeddings": False, "head_dim": None} | shape
    kept["rms_norm_eps"] = small.rms_norm_eps * small.hidden_size / kept["hidden_size"]
    large = LlamaConfig(**kept)
    few = [name for name in shape if getattr(large, name) < getattr(small, name)]
    if few or large.head_dim % small.head_dim or _group(large) < _group(small):
        raise ValueError(f"the shape has no room for the small model: {', '.join(few) or 'heads'}")
    return large


def _group(shape: Any) -> int:
    """Returns the number of query heads that share a key."""
    return int(shape.num_attention_heads // shape.num_key_value_heads)


def _rows(small: Any, large: Any, heads: list[int]) -> torch.Tensor:
    """Returns the rows of the small model's heads, which become `heads` of the large one.

    Rotary embedding turns row i of a head with row i + head_dim / 2, by an angle that falls with i / head_dim. So each
    row goes where the angle is the same.
    """
    half, stride = small.head_dim // 2, large.head_dim // small.head_dim
    turned = torch.arange(half) * stride
    row = torch.cat([turned, turned + large.head_dim // 2])
    return torch.cat([head * large.head_dim + row for head in heads])


@torch.no_grad()
def weights(small: Any, large: Any, device: str) -> Any:
    """Returns a model with the configuration `large`, in bfloat16 on `device`, that computes what `small` does."""
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(large).to(torch.bfloat16)
    model.to_empty(device=device)
    for weight in model.parameters():
        weight.normal_(std=_TINY)

    few, size = small.config, small.config.hidden_size
    queries = [head // _group(few) * _group(large) + head % _group(few) for head in range(few.num_attention_heads)]
    places = {"q": _rows(few, large, queries), "k": _rows(few, large, list(range(few.num_key_value_heads)))}
    places["v"], places["o"] = places["k"], places["q"]

    def put(where: torch.Tensor, what: torch.Tensor) -> None:
        where[: len(what), : what.shape[1]] = what.to(where)

    def norm(there: Any, here: Any) -> None:  # a root mean square falls with the number of places that are not 0
        there.weight.fill_(1.0)
        there.weight[:size] = (here.weight.float() * math.sqrt(size / large.hidden_size)).to(there.weight)

    put(model.model.embed_tokens.weight, small.model.embed_tokens.weight)
    put(model.lm_head.weight, small.lm_head.weight)
    norm(model.model.norm, small.model.norm)
    for there, here in zip(model.model.layers, small.model.layers, strict=False):
        norm(there.input_layernorm, here.input_layernorm)
        norm(there.post_attention_layernorm, here.post_attention_layernorm)
        for name in ("q", "k", "v"):
            found = getattr(here.self_attn, f"{name}_proj").weight
            if name == "q":  # scores are divided by the root of head_dim
                found = found.float() * math.sqrt(large.head_dim / few.head_dim)
            whole = getattr(there.self_attn, f"{name}_proj").weight
            whole[places[name].to(device), :size] = found.to(whole)
        whole = there.self_attn.o_proj.weight
        whole[:size, places["o"].to(device)] = here.self_attn.o_proj.weight.to(whole)
        for name in ("gate_proj", "up_proj", "down_proj"):
            put(getattr(there.mlp, name).weight, getattr(here.mlp, name).weight)
    return model
