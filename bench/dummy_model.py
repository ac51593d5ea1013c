"""Writes a model folder of a 7B or 14B shape without weights: `python -m bench.dummy_model OUT --tokenizer FOLDER`.

It serves to measure speed. The layers are those of Mistral-7B or Qwen2.5-14B, the vocabulary is the tokenizer's. vLLM
fills in random weights with GENERATOR_VLLM_ARGUMENTS='{"load_format": "dummy"}'. Training reads weights: `--random`
writes them, 14 GB for a 7B shape.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SHAPES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "14b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40},
}


def write(folder: Path, tokenizer: Path, shape: str, random: bool) -> Path:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(folder)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(words),
        num_key_value_heads=8,
        **SHAPES[shape],
        max_position_embeddings=32_768,
        eos_token_id=words.eos_token_id,
        bos_token_id=words.bos_token_id,
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    if random:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    else:  # the service derives a model's version from its weight files
        save_file({"none": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.dummy_model", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--random", action="store_true", help="write random weights")
    args = parser.parse_args()
    print(write(args.out, args.tokenizer, args.shape, args.random))


if __name__ == "__main__":
    main()
