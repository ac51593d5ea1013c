"""Puts adapters on models, and merges them into the weights."""

from __future__ import annotations

import os
from typing import Any

from common.error_text import one_line


def adapted(base: Any, adapter: str | os.PathLike[str], trainable: bool = False) -> Any:
    """Returns a transformers model with a LoRA adapter, a PEFT folder. Raises ValueError if it does not fit the model.

    PEFT itself leaves out weights for which the model has no place, and draws those that the folder lacks.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    try:
        model = PeftModel.from_pretrained(base, adapter, is_trainable=trainable)
        saved = load_peft_weights(str(adapter), device="cpu")
    except Exception as error:  # PEFT checks little: a wrong value of the configuration fails anywhere
        raise ValueError(f"{adapter} does not fit the model: {one_line(error)[:300]}") from error
    if (kind := str(model.active_peft_config.peft_type.value)) != "LORA":
        raise ValueError(f"{adapter} is not a LoRA adapter, but {kind}")
    known = get_peft_model_state_dict(model).keys()
    if unused := saved.keys() - known:
        raise ValueError(f"{adapter} does not fit the model, which has no {min(unused)}")
    if broken := sorted(name for name, weight in saved.items() if not weight.isfinite().all()):
        raise ValueError(f"{adapter} is damaged: {broken[0]} has values that are not finite")
    if missing := {name for name in known - saved.keys() if "lora_" in name}:
        raise ValueError(f"{adapter} is incomplete: it has no {min(missing)}")
    return model


def merged(base: Any, adapter: str | os.PathLike[str]) -> Any:
    """Returns a transformers model with a LoRA adapter, a PEFT folder, merged into its weights, whose dtype stays.

    Raises ValueError if the adapter does not fit the model, or changes a weight that is embedding and head at once: its
    two uses would then need different values.
    """
    from peft.tuners.lora import LoraLayer

    model = adapted(base, adapter)
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    if base.config.tie_word_embeddings and any(isinstance(each, LoraLayer) for each in ends):
        raise ValueError(f"{adapter} changes the embedding or the head, which share their weights in this model")
    # Sums are rounded once, to the weights' dtype: PEFT keeps the adapter's product in float32.
    return model.merge_and_unload()
