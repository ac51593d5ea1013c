"""Writes a model folder of a 7B or 14B shape without weights: `python -m bench.dummy_model OUT --tokenizer FOLDER`.

It serves to measure speed. The layers are those of Mistral-7B or Qwen2.5-14B, the vocabulary is the tokenizer's. vLLM
fills in random weights with GENERATOR_VLLM_ARGUMENTS='{"load_format": "dummy"}'. Training reads weights and needs
episodes: `--like MODEL` writes 14 GB for a 7B shape, with which it answers like that small model, and `--adapter` like
the model with an adapter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.files import draft_folder

SHAPES = {
    "7b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "14b": {
        "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
}  # fmt: skip


def write(folder: Path, tokenizer: Path, shape: dict[str, int]) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, LlamaConfig

    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(folder)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(words),
        **shape,
        max_position_embeddings=32_768,
        eos_token_id=words.eos_token_id,
        bos_token_id=words.bos_token_id,
        dtype="bfloat16",
    ).save_pretrained(folder)
    # the service derives a model's version from its weight files
    save_file({"none": torch.zeros(1)}, folder / "model.safetensors")


def write_like(folder: Path, small: Path, adapter: Path | None, shape: dict[str, int]) -> None:
    """Writes the folder whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bench import widened
    from learning.adapters import merged

    model = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
    if adapter:
        model = merged(model, adapter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with draft_folder(folder) as draft:
        AutoTokenizer.from_pretrained(small).save_pretrained(draft)
        widened.weights(model, widened.config(model.config, shape), device).save_pretrained(draft)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.dummy_model", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tokenizer", type=Path, metavar="FOLDER")
    source.add_argument("--like", type=Path, metavar="MODEL", help="write weights that answer like this model")
    parser.add_argument("--adapter", type=Path, metavar="FOLDER", help="of the model to be like")
    args = parser.parse_args()
    if args.like:
        write_like(args.out, args.like, args.adapter, SHAPES[args.shape])
    else:
        write(args.out, args.tokenizer, SHAPES[args.shape])
    print(args.out)


if __name__ == "__main__":
    main()
