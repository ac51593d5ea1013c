"""`python -m services.trainer.base_model OUT`: a GGUF model as a Hugging Face folder, which training and vLLM need.

The embedded model has no other form.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from search_agent.errors import GeneratorError
from services.generator.llama_cpp import embedded_model


def unpack(gguf: Path, folder: Path) -> Path:
    """Writes weights (bfloat16, dequantised), config and tokenizer of `gguf` into `folder`, and returns it.

    A folder that is there already is complete, and stays. Raises OSError or ValueError for a file that
    transformers cannot read.
    """
    if folder.exists():
        return folder
    import torch
    from tokenizers.decoders import ByteLevel
    from tokenizers.pre_tokenizers import ByteLevel as ByteLevelSplit
    from transformers import AutoModelForCausalLM, AutoTokenizer

    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    model.config.__dict__.pop("quantization_config", None)  # the weights no longer are
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # transformers 5.9.0 takes the wrong end of text from a GGUF; engines that hold a model to a grammar
    # let it end with the tokenizer's alone
    end = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.eos_token = tokenizer.pad_token = end
    # and gives a byte-level vocabulary a decoder for another kind, by which those engines then read its tokens
    if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, ByteLevelSplit):
        tokenizer.backend_tokenizer.decoder = ByteLevel()
    tokenizer.clean_up_tokenization_spaces = False
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="services.trainer.base_model", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", type=Path, help="default: the embedded SmolLM2-135M-Instruct")
    args = parser.parse_args()
    try:
        print(unpack(args.gguf or embedded_model(), args.out))
    except (GeneratorError, OSError, ValueError) as error:
        raise SystemExit(f"services.trainer.base_model: {error}") from None


if __name__ == "__main__":
    main()
