"""Attention for training without flash-attn. Importing this registers it with transformers as CAUSAL.

Two layouts reach it. Padded samples have their padding behind the last token, where causal attention never looks.
Packed samples lie one after the other in a single row, and their positions start again at 0. Neither needs a mask, so
PyTorch's flash kernels, which take none, do the work; transformers' own "sdpa" builds a mask for both and falls back to
a kernel that reads it.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

CAUSAL = "causal_sdpa"

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None
_GROUPED = {"enable_gqa": True} if varlen_attn and "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


class _Pieces:
    """Finds where the samples of a packed row begin. All layers pass the same tensor, so the GPU is read once."""

    def __init__(self) -> None:
        self._positions: torch.Tensor | None = None
        self._found: tuple[torch.Tensor, list[int]] | None = None

    def of(self, positions: torch.Tensor | None, rows: int) -> tuple[torch.Tensor, list[int]] | None:
        """Returns the samples' starts and the row's end (int32), and their lengths; None if there is one sample."""
        if positions is None or rows != 1 or positions.ndim != 2 or positions.shape[0] != 1:
            return None
        if positions is not self._positions:
            starts = (positions[0] == 0).nonzero().flatten()
            edges = torch.cat([starts, starts.new_tensor([positions.shape[1]])]).to(torch.int32)
            lengths = edges.diff().tolist()
            self._positions, self._found = positions, (edges, lengths) if len(lengths) > 1 else None
        return self._found


_pieces = _Pieces()


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`query` is [batch, heads, tokens, size], `key` and `value` may have fewer heads; [batch, tokens, heads, size].

    Raises ValueError for keys of earlier tokens, which generation would bring.
    """
    if query.shape[2] != key.shape[2]:
        raise ValueError(f"{CAUSAL} is for training: {query.shape[2]} queries and {key.shape[2]} keys")
    pieces = _pieces.of(position_ids, query.shape[0])
    if pieces and query.is_cuda and varlen_attn:
        edges, lengths = pieces
        packed = [each.transpose(1, 2)[0] for each in (query, key, value)]
        longest = max(lengths)
        out = varlen_attn(*packed, edges, edges, longest, longest, scale=scaling, window_size=(-1, 0), **_GROUPED)
        return out[None], None

    def causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        grouped = query.shape[1] != key.shape[1]
        return scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )

    if pieces:
        split = (each.split(pieces[1], dim=2) for each in (query, key, value))
        out = torch.cat([causal(*sample) for sample in zip(*split, strict=True)], dim=2)
    else:
        out = causal(query, key, value)
    return out.transpose(1, 2), None


AttentionInterface.register(CAUSAL, attend)
