"""Converts a LoRA adapter from PEFT's format to llama.cpp's: `python -m services.generator.lora ADAPTER MODEL OUT`.

The engine does the same if it is given a PEFT folder.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from safetensors import SafetensorError, deserialize

from common.files import draft_of
from services.generator import gguf_header

_LAYER = re.compile(r"layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight$")
_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Options of PEFT that change how weights are scaled or shaped. In GGUF, each is scaled by alpha / rank.
_MORE_THAN_GGUF = ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora")
# Types of weights in safetensors, as numpy names them. It lacks BF16, whose bits are read.
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class AdapterProblem(ValueError):
    """The adapter cannot be converted to GGUF; the message names the file."""


@dataclass(frozen=True, slots=True)
class Change:
    """An adapter's change of one weight: `scale` times the product of `b` (rows, rank) and `a` (rank, columns)."""

    scale: float
    b: np.ndarray
    a: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Returns the weight, an array (rows, columns), after the change. Raises ValueError for another shape."""
        change = self.b.astype(np.float32) @ self.a.astype(np.float32)
        return values + np.float32(self.scale) * change.reshape(values.shape)


def changes(adapter: Path) -> dict[str, Change]:
    """Returns the changes that a GGUF adapter makes, by the names of the model's tensors. Raises AdapterProblem."""
    try:
        reader = gguf.GGUFReader(adapter)
        alpha = float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
        sides = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
        found = {}
        for name, a in sides.items():
            target, ending, _ = name.partition(".lora_a")
            if ending:
                found[target] = Change(alpha / a.shape[0], sides[f"{target}.lora_b"], a)
        return found
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise AdapterProblem(f"{adapter}: not an adapter in GGUF: {error}") from error


class Architecture(NamedTuple):
    """A model's architecture as GGUF names it, and its numbers of query heads and of key-value heads."""

    name: str
    queries: int
    keys: int


def architecture_of(model: Path) -> Architecture:
    """Reads the architecture of a GGUF model. Raises AdapterProblem for another file or an unknown architecture."""
    try:
        metadata = gguf_header.read(model)
        name = metadata["general.architecture"]
        if name not in _ARCHITECTURES:
            raise AdapterProblem(f"{model}: weights of {name!r} models cannot be converted to GGUF")
        queries = int(metadata[f"{name}.attention.head_count"])
        return Architecture(name, queries, int(metadata.get(f"{name}.attention.head_count_kv", queries)))
    except AdapterProblem:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterProblem(f"{model}: not a GGUF model: {error}") from error


def to_gguf(adapter: Path, architecture: Architecture, out: Path) -> Path:
    """Writes the PEFT folder `adapter`, for a model of that architecture, as `out`, in float16.

    The same folder gives the same bytes. Raises AdapterProblem.
    """
    described = adapter / "adapter_config.json"
    config = _config(described)
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not isinstance(alpha, int | float):
        raise AdapterProblem(f"{described}: lora_alpha is not a number")
    for option in _MORE_THAN_GGUF:
        if config.get(option):
            raise AdapterProblem(f"{described}: {option} has no place in GGUF")
    file = adapter / "adapter_model.safetensors"
    tensors = _tensors(file)
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(None, architecture.name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    for name, weight in sorted(tensors.items()):
        found = _LAYER.search(name)
        if not found or found[2] not in _NAMES:
            raise AdapterProblem(f"{file}: no place in GGUF for {name}")
        layer, part, side = found.groups()
        # A is (rank, columns), B (rows, rank).
        if weight.ndim != 2 or (rank and weight.shape["AB".index(side)] != rank):
            raise AdapterProblem(f"{file}: {name} has shape {weight.shape}, and the adapter rank {rank}")
        if side == "B" and part in ("q_proj", "k_proj"):
            count = architecture.queries if part == "q_proj" else architecture.keys
            if len(weight) % (2 * count):
                raise AdapterProblem(f"{file}: {name} does not fit a model with {count} heads")
            if architecture.name == "llama":
                weight = interleaved(weight, count)
        writer.add_tensor(f"blk.{layer}.{_NAMES[part]}.weight.lora_{side.lower()}", weight.astype(np.float16))
    with draft_of(out) as draft:
        writer.write_header_to_file(draft)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return out


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Returns the rows of a Llama's queries or keys, (rows, columns), in llama.cpp's order.

    It rotates neighbouring dimensions of a Llama, where transformers rotates halves. Of a Qwen both rotate halves.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tensors(file: Path) -> dict[str, np.ndarray]:
    """Returns the tensors by name. verl saves bfloat16, which numpy lacks; those become float32."""
    try:
        found = dict(deserialize(file.read_bytes()))
    except OSError as error:
        raise AdapterProblem(f"{file}: {error.strerror}") from error
    except SafetensorError as error:
        raise AdapterProblem(f"{file}: not in safetensors' format: {error}") from error
    try:
        return {name: decoded(**stored) for name, stored in found.items()}
    except KeyError as error:
        raise AdapterProblem(f"{file}: weights of type {error.args[0]} cannot be converted") from None


def decoded(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    """Returns a tensor of a safetensors file. Raises KeyError for a type that is not in TYPES."""
    values = np.frombuffer(data, TYPES[dtype])
    if dtype == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)


def _config(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdapterProblem(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AdapterProblem(f"{file}: {error}") from error
    if not isinstance(found, dict):
        raise AdapterProblem(f"{file}: not a JSON object")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="services.generator.lora", description=__doc__)
    parser.add_argument("adapter", type=Path, help="PEFT folder")
    parser.add_argument("model", type=Path, help="GGUF model that it is for")
    parser.add_argument("out", type=Path, help="GGUF file to write")
    args = parser.parse_args()
    try:
        print(to_gguf(args.adapter, architecture_of(args.model), args.out))
    except (AdapterProblem, OSError) as problem:
        raise SystemExit(f"services.generator.lora: {problem}") from None


if __name__ == "__main__":
    main()
