"""Puts adapters on models."""

from __future__ import annotations

import os
from typing import Any

from common.error_text import one_line


def adapted(base: Any, adapter: str | os.PathLike[str], trainable: bool = False) -> Any:
    """Returns a transformers model with a LoRA adapter, a PEFT folder. Raises ValueError if it does not fit the model.

    PEFT itself leaves out weights for which the model has no place.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights
    from safetensors import SafetensorError

    try:
        model = PeftModel.from_pretrained(base, adapter, is_trainable=trainable)
        saved = load_peft_weights(str(adapter), device="cpu")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{adapter} does not fit the model: {one_line(error)[:300]}") from error
    if (kind := str(model.active_peft_config.peft_type.value)) != "LORA":
        raise ValueError(f"{adapter} is not a LoRA adapter, but {kind}")
    if unused := saved.keys() - get_peft_model_state_dict(model).keys():
        raise ValueError(f"{adapter} does not fit the model, which has no {min(unused)}")
    return model
