from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from services.generator.lora import AdapterProblem, Architecture, architecture_of, to_gguf

KEYS = "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight"
QUERIES = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("config", "kind", "rows", "problem"),
    [
        ({}, np.float32, 8, r"adapter_config\.json: lora_alpha"),
        ({"lora_alpha": "16"}, np.float32, 8, r"adapter_config\.json: lora_alpha"),
        ({"lora_alpha": 16, "use_rslora": True}, np.float32, 8, r"adapter_config\.json: use_rslora"),
        ({"lora_alpha": 16, "alpha_pattern": {"q_proj": 4}}, np.float32, 8, r"adapter_config\.json: alpha_pattern"),
        ({"lora_alpha": 16, "r": 4}, np.float32, 8, r"adapter_model\.safetensors: .*q_proj.* rank 4"),
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
        to_gguf(tmp_path, Architecture("llama", 2, 1), tmp_path / "lora.gguf")


def test_a_folder_that_is_cut_off_is_named(tmp_path: Path) -> None:
    shape = Architecture("llama", 2, 1)
    with pytest.raises(AdapterProblem, match=r"adapter_config\.json: No such file"):
        to_gguf(tmp_path, shape, tmp_path / "lora.gguf")
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 16}')
    with pytest.raises(AdapterProblem, match=r"adapter_model\.safetensors: No such file"):
        to_gguf(tmp_path, shape, tmp_path / "lora.gguf")
    save_file({QUERIES: np.ones((8, 2))}, tmp_path / "adapter_model.safetensors")
    whole = (tmp_path / "adapter_model.safetensors").read_bytes()
    for length in (0, 5, len(whole) - 1):
        (tmp_path / "adapter_model.safetensors").write_bytes(whole[:length])
        with pytest.raises(AdapterProblem, match=r"adapter_model\.safetensors: not in safetensors' format"):
            to_gguf(tmp_path, shape, tmp_path / "lora.gguf")


# A Llama's queries and keys are rotated in neighbouring pairs in GGUF, in halves in PEFT; a Qwen's in halves in both.
@pytest.mark.parametrize(("architecture", "rows"), [("llama", [0, 2, 1, 3]), ("qwen2", [0, 1, 2, 3])])
def test_an_adapter_has_the_rows_of_its_architecture(tmp_path: Path, architecture: str, rows: list[int]) -> None:
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 16}')
    save_file({KEYS: np.arange(8.0, dtype=np.float32).reshape(4, 2)}, tmp_path / "adapter_model.safetensors")
    reader = gguf.GGUFReader(to_gguf(tmp_path, Architecture(architecture, 2, 1), tmp_path / "lora.gguf"))
    (tensor,) = reader.tensors
    assert tensor.name == "blk.0.attn_k.weight.lora_b"
    assert tensor.data[:, 0].tolist() == [2.0 * row for row in rows]
    assert reader.fields["general.architecture"].contents() == architecture


def test_only_known_architectures_are_converted(tmp_path: Path) -> None:
    for name in ("qwen3", "gemma3"):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", name)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    assert architecture_of(tmp_path / "qwen3.gguf") == Architecture("qwen3", 4, 2)
    with pytest.raises(AdapterProblem, match=r"gemma3\.gguf: .*'gemma3'"):
        architecture_of(tmp_path / "gemma3.gguf")
