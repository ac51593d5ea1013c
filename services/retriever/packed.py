"""A BERT over concatenated texts, without padding.

A layer is four matrix products, attention and two layer norms; no kernel only adds. For `x + a @ w + b`, the layer norm
that makes `x` has `b` in its own bias already, and the product adds to `x` in place. Whatever else reads `x` takes `b`
off again, in its own bias.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np

from services.retriever.token_ids import flat

_FLASH_FROM = (8, 0)  # compute capability
_FLASH_HEAD = 256  # numbers in a head, at most

Attention = Callable[[Any, Any, int], Any]


class Batch(NamedTuple):
    """Texts one after the other, int32. `starts` has one entry more than there are texts."""

    ids: np.ndarray  # (tokens,)
    places: np.ndarray  # (tokens,): 0, 1, 2, … in each text
    starts: np.ndarray  # (texts + 1,)


def pack(texts: Sequence[Sequence[int]]) -> Batch:
    """Concatenates texts, given as token ids."""
    lengths = np.fromiter(map(len, texts), dtype=np.int32, count=len(texts))
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = flat(texts)
    places = np.arange(len(ids), dtype=np.int32) - np.repeat(starts[:-1], lengths)
    return Batch(ids, places, starts)


class PackedBert:
    """The layers and the pooling of a sentence-transformers model for which `packs` holds.

    It computes on the model's device, in `dtype`.
    """

    def __init__(self, model: Any, dtype: Any) -> None:
        import torch

        bert, self._pooling = model[0].auto_model, _pooling(model[1])
        self.device = model.device
        config, embeddings = bert.config, bert.embeddings
        self.longest = config.max_position_embeddings
        self._heads, self._epsilon = config.num_attention_heads, config.layer_norm_eps
        self.attend = attention(self.device, config.hidden_size // self._heads)

        def ready(values: Any) -> Any:
            return values.detach().to(self.device, dtype)

        def norm(module: Any, added: Any) -> tuple[Any, Any]:
            return ready(module.weight), ready(module.bias + added)

        def product(weight: Any, bias: Any, added: Any) -> tuple[Any, Any]:
            return ready(bias - weight @ added), ready(weight).T

        with torch.inference_mode():
            first = getattr(embeddings, "padding_idx", None)  # RoBERTa counts places from there
            table = embeddings.position_embeddings.weight[0 if first is None else first + 1 :]
            self._words = ready(embeddings.word_embeddings.weight)
            self._places = ready(table + embeddings.token_type_embeddings.weight[0])
            layers = list(bert.encoder.layer)
            biases = [layer.attention.output.dense.bias for layer in layers]
            self._norm = norm(embeddings.LayerNorm, biases[0])
            self._layers = []
            for layer, bias, next_bias in zip(layers, biases, [*biases[1:], torch.zeros_like(biases[0])], strict=True):
                reads, inner = layer.attention.self, layer.output.dense.bias
                parts = (reads.query, reads.key, reads.value)
                self._layers.append(
                    _Layer(
                        product(
                            torch.cat([each.weight for each in parts]), torch.cat([each.bias for each in parts]), bias
                        ),
                        ready(layer.attention.output.dense.weight).T,
                        norm(layer.attention.output.LayerNorm, inner),
                        product(layer.intermediate.dense.weight, layer.intermediate.dense.bias, inner),
                        ready(layer.output.dense.weight).T,
                        norm(layer.output.LayerNorm, next_bias),
                    )
                )

    def __call__(self, ids: Any, places: Any, starts: Any, longest: int) -> Any:
        """Returns float32 (texts, hidden) of length 1. The tensors are those of a Batch."""
        import torch
        from torch.nn import functional

        def normed(x: Any, parts: tuple[Any, Any]) -> Any:
            return functional.layer_norm(x, x.shape[-1:], *parts, self._epsilon)

        x = normed(functional.embedding(ids, self._words) + functional.embedding(places, self._places), self._norm)
        for layer in self._layers:
            heads = torch.addmm(layer.reads[0], x, layer.reads[1]).view(len(x), 3, self._heads, -1)
            x = normed(x.addmm_(self.attend(heads, starts, longest).flatten(1), layer.attended), layer.middle)
            inner = torch._addmm_activation(layer.inner[0], x, layer.inner[1], use_gelu=True)
            x = normed(x.addmm_(inner, layer.outer), layer.end)
        if self._pooling == "cls":
            pooled = x[starts[:-1].clamp(max=len(x) - 1)]
        else:
            rows = torch.arange(len(x), device=x.device, dtype=starts.dtype)
            pooled = functional.embedding_bag(rows, x, starts, mode="mean", include_last_offset=True)
        return functional.normalize(pooled.float())


class _Layer(NamedTuple):
    """Products are (bias, weight) or a weight, norms (weight, bias)."""

    reads: tuple[Any, Any]
    attended: Any
    middle: tuple[Any, Any]
    inner: tuple[Any, Any]
    outer: Any
    end: tuple[Any, Any]


def packs(model: Any) -> bool:
    """Tells whether a sentence-transformers model is a plain BERT or RoBERTa with mean or first-token pooling."""
    transformers = importlib.import_module("transformers")
    modules = list(model)
    bert: Any = getattr(modules[0], "auto_model", None)
    return (
        type(bert) in (transformers.BertModel, transformers.RobertaModel, transformers.XLMRobertaModel)
        and [type(module).__name__ for module in modules[1:]] in (["Pooling"], ["Pooling", "Normalize"])
        and _pooling(modules[1]) in ("cls", "mean")
        and bert.config.hidden_act == "gelu"
        and getattr(bert.config, "position_embedding_type", "absolute") == "absolute"
        and not bert.config.is_decoder
        and all(type(part).__module__.startswith(("torch.", "transformers.")) for part in bert.modules())  # no adapters
    )


def _pooling(module: Any) -> str:
    found: str = module.pooling_mode if hasattr(module, "pooling_mode") else module.get_pooling_mode_str()
    return found


def attention(device: Any, head: int) -> Attention:
    """Returns the attention for a device and heads of so many numbers.

    It takes queries, keys and values together (tokens, 3, heads, head), the starts of texts, and a length that no text
    exceeds, and returns (tokens, heads, head).
    """
    import torch

    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FLASH_FROM and head <= _FLASH_HEAD:
        try:
            varlen = importlib.import_module("torch.nn.attention.varlen").varlen_attn
        except ImportError:  # torch before 2.10
            return by_length
        return lambda heads, starts, longest: varlen(*heads.unbind(1), starts, starts, longest, longest)
    return by_length


def by_length(heads: Any, starts: Any, longest: int) -> Any:
    """Attention for any device: neighbouring texts of the same length at a time. Best for texts sorted by length."""
    import torch

    found = torch.empty_like(heads[:, 0])
    edges = starts.tolist()
    at = 0
    for length, texts in groupby(stop - start for start, stop in pairwise(edges)):
        tokens = length * len(list(texts))
        if not tokens:
            continue
        parts = heads[at : at + tokens].unflatten(0, (-1, length)).permute(2, 0, 3, 1, 4)  # 3, texts, heads, length
        out = torch.nn.functional.scaled_dot_product_attention(*parts)
        found[at : at + tokens] = out.transpose(1, 2).flatten(0, 1)
        at += tokens
    return found
