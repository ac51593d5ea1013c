"""Attention for training without flash-attn. Importing this registers it with transformers as CAUSAL.

Three layouts reach it. Padded samples have their padding behind the last token, where causal attention never looks.
Packed samples lie one after the other in a single row, and their positions start again at 0. Packed samples that share
a prompt come with a `Layout`. None needs a mask, so PyTorch's flash kernels, which take none, do the work;
transformers' own "sdpa" builds a mask and falls back to a kernel that reads it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The pieces of a packed row. A piece's queries are its own tokens; its keys are those of its prefix, then its own.

    `gather` has the place in the row of each piece's keys, one piece after the other; None if no piece has a prefix.
    `query_edges` and `key_edges` are where each piece begins, and the end (int32).
    """

    queries: Sequence[int]  # tokens of each piece
    keys: Sequence[int]
    query_edges: torch.Tensor
    key_edges: torch.Tensor
    gather: torch.Tensor | None = None

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], gather: torch.Tensor) -> Layout:
        """Returns the layout on the device of `gather`."""

        def edges(lengths: Sequence[int]) -> torch.Tensor:
            return torch.tensor([0, *lengths]).cumsum(0).to(gather.device, torch.int32)

        return cls(queries, keys, edges(queries), edges(keys), gather)


class _Samples:
    """Finds where the samples of a packed row begin. All layers pass the same tensor, so the GPU is read once."""

    def __init__(self) -> None:
        self._positions: torch.Tensor | None = None
        self._found: Layout | None = None

    def of(self, positions: torch.Tensor | None, rows: int) -> Layout | None:
        """Returns the layout of samples that share nothing; None if there is one sample."""
        if positions is None or rows != 1 or positions.ndim != 2 or positions.shape[0] != 1:
            return None
        if positions is not self._positions:
            starts = (positions[0] == 0).nonzero().flatten()
            edges = torch.cat([starts, starts.new_tensor([positions.shape[1]])]).to(torch.int32)
            lengths = edges.diff().tolist()
            self._positions = positions
            self._found = Layout(lengths, lengths, edges, edges) if len(lengths) > 1 else None
        return self._found


_samples = _Samples()


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: torch.Tensor | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Returns the outputs, [batch, tokens, heads, size], and no weights.

    `query` is [batch, heads, tokens, size]; `key` and `value` may have fewer heads. Raises ValueError for keys of
    earlier tokens, which generation would bring.
    """
    if query.shape[2] != key.shape[2]:
        raise ValueError(f"{CAUSAL} is for training: {query.shape[2]} queries and {key.shape[2]} keys")
    layout = layout or _samples.of(position_ids, query.shape[0])
    if layout is None:
        return _causal(query, key, value, scaling, dropout).transpose(1, 2), None
    if layout.gather is not None:
        key, value = (each.index_select(2, layout.gather) for each in (key, value))
    if query.is_cuda and varlen_attn:
        packed = [each.transpose(1, 2)[0] for each in (query, key, value)]
        edges, longest = (layout.query_edges, layout.key_edges), (max(layout.queries), max(layout.keys))
        out = varlen_attn(*packed, *edges, *longest, scale=scaling, window_size=(-1, 0), **_GROUPED)
        return out[None], None
    pieces = zip(
        query.split(layout.queries, dim=2), key.split(layout.keys, dim=2), value.split(layout.keys, dim=2), strict=True
    )
    return torch.cat([_causal(*piece, scaling, dropout) for piece in pieces], dim=2).transpose(1, 2), None


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, dropout: float
) -> torch.Tensor:
    """Returns causal attention, in which the last query belongs to the last key's token."""
    queries, keys = query.shape[2], key.shape[2]
    mask = None
    if queries != keys:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return scaled_dot_product_attention(
        query, key, value, mask, dropout, mask is None, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


AttentionInterface.register(CAUSAL, attend)
