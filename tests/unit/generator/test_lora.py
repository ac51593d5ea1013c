from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.generator.lora import AdapterProblem, Heads, to_gguf

QUERIES = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("config", "kind", "rows", "problem"),
    [
        ({}, np.float32, 8, r"adapter_config\.json: lora_alpha"),
        ({"lora_alpha": "16"}, np.float32, 8, r"adapter_config\.json: lora_alpha"),
        ({"lora_alpha": 16}, np.int8, 8, r"adapter_model\.safetensors: .*I8"),
        ({"lora_alpha": 16}, np.float32, 6, r"adapter_model\.safetensors: .*q_proj.* 2 heads"),
    ],
)
def test_an_adapter_that_cannot_be_converted_is_named(
    tmp_path: Path, config: dict[str, Any], kind: type, rows: int, problem: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({QUERIES: np.ones((rows, 2), kind)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterProblem, match=problem):
        to_gguf(tmp_path, Heads(2, 1), tmp_path / "lora.gguf")
