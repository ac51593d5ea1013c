from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from services.generator import gguf_header, quick_weights
from services.generator.lora import AdapterProblem, changes


def model(path: Path) -> Path:
    """Writes a model with tensors of several types, whose sizes are no multiples of the alignment."""
    rows = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "tiny")
    writer.add_array("tokenizer.ggml.tokens", ["a", "<|end|>", "é"])
    for name, kind in (("q", Kind.Q4_1), ("e", Kind.Q8_0), ("p", Kind.Q4_1)):
        writer.add_tensor(f"{name}.weight", quantize(rows, kind), raw_dtype=kind)
    writer.add_tensor("norm.weight", np.arange(3, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_only_slow_weights_change_and_keep_their_values(tmp_path: Path) -> None:
    source, out = model(tmp_path / "model.gguf"), tmp_path / "quick.gguf"
    quick_weights.write(source, out)
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    assert list(after) == list(before)
    for name in ("q.weight", "p.weight"):
        assert after[name].tensor_type is Kind.Q8_0
        assert after[name].shape.tolist() == [64, 3]
        was = dequantize(before[name].data, Kind.Q4_1)
        assert np.abs(dequantize(after[name].data, Kind.Q8_0) - was).max() <= np.abs(was).max() / 250
    for name in ("e.weight", "norm.weight"):
        assert after[name].tensor_type is before[name].tensor_type
        assert (after[name].data == before[name].data).all()
    assert gguf_header.read(out) == gguf_header.read(source)


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    source = model(tmp_path / "model.gguf")
    whole = source.read_bytes()
    for length in (len(whole) - 60, 200, 6):
        source.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="the file ends"):
            quick_weights.write(source, tmp_path / "quick.gguf")


def adapter(path: Path, target: str, a: np.ndarray, b: np.ndarray) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 6.0)
    writer.add_tensor(f"{target}.lora_a", a.astype(np.float16))
    writer.add_tensor(f"{target}.lora_b", b.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_adapter_is_merged_into_the_weights_that_it_changes(tmp_path: Path) -> None:
    source, out = model(tmp_path / "model.gguf"), tmp_path / "merged.gguf"
    noise = np.random.default_rng(1)
    a, b = noise.integers(-2, 3, size=(2, 64)), noise.integers(-2, 3, size=(3, 2))
    quick_weights.write(source, out, changes(adapter(tmp_path / "lora.gguf", "e.weight", a, b)))
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    wanted = dequantize(before["e.weight"].data, Kind.Q8_0) + 3 * (b @ a)  # alpha over rank
    assert np.abs(dequantize(after["e.weight"].data, Kind.Q8_0) - wanted).max() <= np.abs(wanted).max() / 250
    assert (after["norm.weight"].data == before["norm.weight"].data).all()


def test_a_model_that_is_not_quantised_is_quantised_as_a_whole_with_an_adapter(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "f16.gguf", "qwen2")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_string("general.name", "tiny")
    writer.add_tensor("e.weight", rows.astype(np.float16))
    writer.add_tensor("q.weight", rows.astype(np.float16))
    writer.add_tensor("q.bias", rows[:, 0].copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lora = changes(adapter(tmp_path / "lora.gguf", "q.weight", np.ones((2, 64)), np.ones((3, 2))))
    quick_weights.write(tmp_path / "f16.gguf", tmp_path / "merged.gguf", lora)
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "merged.gguf").tensors}
    assert [after[name].tensor_type for name in ("e.weight", "q.weight", "q.bias")] == [Kind.Q8_0, Kind.Q8_0, Kind.F32]
    assert np.abs(dequantize(after["e.weight"].data, Kind.Q8_0) - rows).max() < 0.02
    assert np.abs(dequantize(after["q.weight"].data, Kind.Q8_0) - (rows + 6)).max() < 0.05
    was = gguf_header.read(tmp_path / "f16.gguf")
    assert gguf_header.read(tmp_path / "merged.gguf") == was | {"general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0}
    quick_weights.write(tmp_path / "f16.gguf", tmp_path / "plain.gguf")
    assert gguf_header.read(tmp_path / "plain.gguf") == was


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    source = model(tmp_path / "model.gguf")
    one, two, four = np.ones((1, 64)), np.ones((3, 1)), np.ones((4, 1))
    for target, b, problem in (
        ("x.weight", two, "no tensor x.weight"),
        ("e.weight", four, "e.weight has another shape"),
    ):
        lora = changes(adapter(tmp_path / "lora.gguf", target, one, b))
        with pytest.raises(ValueError, match=problem):
            quick_weights.write(source, tmp_path / "merged.gguf", lora)
    with pytest.raises(AdapterProblem, match="not an adapter"):
        changes(source)
