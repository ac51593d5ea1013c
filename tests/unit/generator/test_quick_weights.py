from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from services.generator import gguf_header, quick_weights


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
