"""A GGUF model as a Hugging Face folder, which training and vLLM need: the embedded one has no other form."""

from __future__ import annotations

import shutil
from pathlib import Path


def unpack(gguf: Path, folder: Path) -> Path:
    """Writes weights (bfloat16, dequantised), config and tokenizer of `gguf` into `folder`, and returns it.

    A folder that is there already is complete, and stays. Raises OSError or ValueError for a file that
    transformers cannot read.
    """
    if folder.exists():
        return folder
    import torch
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
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    draft.rename(folder)
    return folder
