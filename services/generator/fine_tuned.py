"""Converts a fine-tuned model to GGUF: `python -m services.generator.fine_tuned MODEL LIKE OUT`.

MODEL is a folder as transformers saves it, all of whose weights were trained. LIKE is a GGUF file of the same model
before that, such as the searcher that it is to replace: it has the vocabulary, the chat template and everything else
that training leaves as it is. Promotion does the same for a searcher on a CPU.
"""

from __future__ import annotations

import argparse
import json
import mmap
import struct
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from safetensors import SafetensorError, safe_open

from common import model_card
from common.files import draft_of
from search_agent.types import UNTAUGHT
from services.generator import gguf_header, quick_weights
from services.generator.lora import TYPES, Architecture, architecture_of, decoded, interleaved

_KINDS = (".weight", ".bias")
_ARCHITECTURES = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
_HEAD, _EMBEDDING = "output.weight", "token_embd.weight"
_UNTRAINED = {"rope_freqs.weight"}  # follow from the configuration; transformers does not save them


class _Stored(NamedTuple):
    """A tensor in a file of safetensors, read when it is needed: a model may be larger than the memory."""

    file: Path
    dtype: str
    shape: list[int]
    start: int
    end: int

    def read(self) -> np.ndarray:
        with self.file.open("rb") as file:
            file.seek(self.start)
            return decoded(self.dtype, self.shape, file.read(self.end - self.start)).astype(np.float32)


def to_gguf(model: Path, like: Path, out: Path) -> Path:
    """Writes the weights of the folder `model` as `out`, in Q8_0, with its card beside it; returns `out`.

    Raises OSError, and ValueError if the folder is damaged or its weights do not have the shapes of `like`.
    """
    architecture = architecture_of(like)
    stored = _by_gguf_name(model, like, architecture)
    changes = {name: partial(_trained, each, name, architecture) for name, each in stored.items()}
    with draft_of(out) as draft:
        quick_weights.write(like, draft, changes)
        if (card := model_card.read(model)) != UNTAUGHT:
            model_card.write(out.parent, card)
    return out


def _by_gguf_name(model: Path, like: Path, architecture: Architecture) -> dict[str, _Stored]:
    """Returns the folder's tensors by their names in GGUF: all those of `like`, and no other."""
    with like.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        layout = gguf_header.layout(data)
    wanted = {tensor.name for tensor in layout.tensors} - _UNTRAINED
    layers = int(layout.metadata.get(f"{architecture.name}.block_count", 0))
    names = gguf.get_tensor_name_map(_ARCHITECTURES[architecture.name], layers)
    found: dict[str, _Stored] = {}
    for name, stored in _tensors(model).items():
        if not (target := names.get_name(name, try_suffixes=_KINDS)):
            raise ValueError(f"{model}: {like} has no place for {name}")
        found[target] = stored
    if _ties_the_head(model / "config.json"):  # it is the embedding, which either file may have a second time
        found.pop(_HEAD, None)
        found |= {name: found[_EMBEDDING] for name in wanted & {_HEAD} if _EMBEDDING in found}
    if missing := wanted - found.keys():
        raise ValueError(f"{model}: no weights for {min(missing)} of {like}")
    return found


def _ties_the_head(config: Path) -> bool:
    try:
        return bool(json.loads(config.read_bytes()).get("tie_word_embeddings"))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{config} cannot be read: {error}") from error


def _tensors(model: Path) -> dict[str, _Stored]:
    """Returns where a folder has its tensors, by name."""
    found = {}
    for path in sorted(model.glob("*.safetensors")):
        try:
            with safe_open(path, "numpy"):
                pass  # it checks the header against the file's length
        except SafetensorError as error:
            raise ValueError(f"{path}: not in safetensors' format: {error}") from error
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            start, end = (8 + length + offset for offset in tensor["data_offsets"])
            if tensor["dtype"] not in TYPES:
                raise ValueError(f"{path}: weights of type {tensor['dtype']} cannot be converted")
            found[name] = _Stored(path, tensor["dtype"], tensor["shape"], start, end)
    if not found:
        raise ValueError(f"{model}: no weights in *.safetensors")
    return found


def _trained(stored: _Stored, name: str, architecture: Architecture, before: np.ndarray) -> np.ndarray:
    """Returns a tensor's values as llama.cpp orders them."""
    values = stored.read()
    if values.shape != before.shape:
        raise ValueError(f"{values.shape} in place of {before.shape}")
    heads = {"attn_q": architecture.queries, "attn_k": architecture.keys}.get(name.split(".")[-2])
    if heads and architecture.name == "llama":
        return interleaved(values.reshape(len(values), -1), heads).reshape(values.shape)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(prog="services.generator.fine_tuned", description=__doc__)
    parser.add_argument("model", type=Path, help="folder as transformers saves it, such as CHECKPOINT/model")
    parser.add_argument("like", type=Path, help="GGUF file of the model before training")
    parser.add_argument("out", type=Path, help="GGUF file to write; beside it comes the model's card")
    args = parser.parse_args()
    try:
        print(to_gguf(args.model, args.like, args.out))
    except (ValueError, OSError) as problem:
        raise SystemExit(f"services.generator.fine_tuned: {problem}") from None


if __name__ == "__main__":
    main()
