"""Attention for training without flash-attn. Importing this registers it with transformers as CAUSAL.

What verl trains on is padded behind its last token, where causal attention never looks. So no mask is needed, and
PyTorch's flash kernel, which takes none, does the work; transformers' own "sdpa" builds one as soon as there is padding
and falls back to a kernel that reads it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

CAUSAL = "causal_sdpa"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`query` is [batch, heads, tokens, size], `key` and `value` may have fewer heads; [batch, tokens, heads, size].

    Raises ValueError for keys of earlier tokens, which generation would bring.
    """
    if query.shape[2] != key.shape[2]:
        raise ValueError(f"{CAUSAL} is for training: {query.shape[2]} queries and {key.shape[2]} keys")
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out.transpose(1, 2), None


AttentionInterface.register(CAUSAL, attend)
