"""Converts a GGUF model to a Hugging Face folder, which training and vLLM need.

The embedded model has no other form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import model_card
from common.files import draft_folder
from search_agent.types import ModelCard
from services.generator.gguf_files import digest


def unpack(gguf: Path, folder: Path) -> Path:
    """Writes weights (bfloat16, dequantised), config and tokenizer of `gguf` into `folder`, and returns it.

    An existing folder is complete, and stays. Raises OSError or ValueError for a file that transformers cannot read.
    """
    if folder.exists():
        return folder
    import torch
    import transformers

    # transformers 5.23 may leave the weights packed, and 5.9 cannot.
    unpacked = (
        {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **unpacked
    )
    # The weights are no longer quantised, whatever the configuration and the model still say.
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    with draft_folder(folder) as draft:
        model.save_pretrained(draft)
        tokenizer_of(gguf, model.config.eos_token_id).save_pretrained(draft)
        model_card.write(draft, ModelCard(base_model=digest(gguf)))
    return folder


def tokenizer_of(gguf: Path, end: int) -> Any:
    """Returns a GGUF model's tokenizer with the end of text `end`, so that engines can hold the model to a grammar.

    transformers 5.9.0 reads another end of text from a GGUF, and gives a byte vocabulary the wrong decoder. Engines
    stop only at the tokenizer's end of text, and decode as its decoder does.
    """
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)
    if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer
