"""Adapters trained on examples with a tiny model, and their format for llama.cpp."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from learning.warm_start.settings import Settings
from learning.warm_start.supervised import batches, encode, read_spans, train
from search_agent.types import Author, Span
from services.generator.lora import AdapterProblem, Architecture, to_gguf
from tests.learning.model import write_model

torch = pytest.importorskip("torch")
EXAMPLES = [
    [Span(Author.ENVIRONMENT, f"door {n}?"), Span(Author.POLICY, f"code {n * 7}")] for n in range(12)
]  # fmt: skip
QUICK = Settings(rank=4, learning_rate=1e-2, epochs=12, batch_tokens=256, save_steps=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = write_model(tmp_path_factory.mktemp("model"))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "losses.jsonl").read_bytes().splitlines()]


def test_only_what_the_policy_wrote_is_learned(model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    spans = [
        Span(Author.ENVIRONMENT, "question"),
        Span(Author.POLICY, "search"),
        Span(Author.ENVIRONMENT, "found"),
        Span(Author.POLICY, "answer"),
    ]
    found = encode(tokenizer, spans)
    learned = [token for token, mask in zip(found.ids, found.mask, strict=True) if mask]
    assert tokenizer.decode(learned) == "searchanswer<|im_end|>"
    assert tokenizer.decode(found.ids).endswith("<|im_start|>assistant\nsearchfoundanswer<|im_end|>")


def test_control_tokens_in_an_example_are_text(model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    said = "a<|im_end|>\n<|im_start|>assistant\nb"
    found = encode(tokenizer, [Span(Author.ENVIRONMENT, said), Span(Author.POLICY, said)])
    begin, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert [each for each in found.ids if each in (begin, end)] == [begin, end, begin, end]
    assert tokenizer.decode(found.ids) == (
        f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>"
    )


def test_batches_hold_every_example_once_an_epoch_within_the_tokens() -> None:
    lengths = [5, 40, 7, 33, 90, 12, 8]
    settings = Settings(epochs=2, batch_tokens=80)
    found = list(batches(lengths, settings))
    assert sorted(row for step in found for row in step) == sorted([*range(7)] * 2)
    assert all(len(step) == 1 or sum(lengths[row] for row in step) <= 80 for step in found)
    assert found == list(batches(lengths, settings)) != list(batches(lengths, replace(settings, seed=1)))


def test_the_loss_falls_and_the_adapter_is_written(model: Path, tmp_path: Path) -> None:
    train(model, EXAMPLES, tmp_path, QUICK)
    found = losses(tmp_path)
    assert found[-1] < 0.9 * found[0]
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_adapters_of_earlier_steps_are_kept(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    train(model, EXAMPLES, tmp_path, QUICK, stops=[2, 5])
    folders = [tmp_path / "step-2", tmp_path / "step-5", tmp_path]
    early, later, last = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    side = next(name for name in last if "lora_B" in name)
    assert 0 < np.abs(early[side]).mean() < np.abs(later[side]).mean() < np.abs(last[side]).mean()


def test_learning_goes_on_from_an_adapter(model: Path, tmp_path: Path) -> None:
    train(model, EXAMPLES, tmp_path / "first", QUICK)
    train(model, EXAMPLES, tmp_path / "second", replace(QUICK, rank=8), start=tmp_path / "first")
    assert losses(tmp_path / "second")[0] < losses(tmp_path / "first")[-1] * 1.2
    assert json.loads((tmp_path / "second" / "adapter_config.json").read_text())["r"] == QUICK.rank


def test_a_killed_run_goes_on_with_the_same_losses(model: Path, tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    lines = ({"spans": [[span.author, span.text] for span in spans]} for spans in EXAMPLES)
    examples.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    train(model, EXAMPLES, tmp_path / "whole", QUICK)

    command = [sys.executable, "-m", "cli", "supervised", "--model", model, "--examples", examples]
    command += ["--out", tmp_path / "killed", "--rank", "4", "--learning-rate", "1e-2", "--epochs", "12"]
    command += ["--batch-tokens", "256", "--save-steps", "3"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "adapter_model.safetensors").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    np.testing.assert_allclose(losses(tmp_path / "killed"), losses(tmp_path / "whole"), rtol=1e-3)


def test_a_bad_example_is_named(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text('{"spans": [["environment", "a"]]}\n{"spans": [["nobody", "a"]]}\n')
    with pytest.raises(ValueError, match=r"examples.jsonl:2: not an example"):
        read_spans(file)


def test_nothing_to_learn_from_writes_no_adapter(model: Path, tmp_path: Path) -> None:
    for examples, longest in (([], 3072), (EXAMPLES, 1)):
        with pytest.raises(ValueError, match="no example"):
            train(model, examples, tmp_path / "out", Settings(max_tokens=longest))
    assert not (tmp_path / "out").exists()


def test_the_gguf_adapter_turns_as_llama_cpp_turns(model: Path, tmp_path: Path) -> None:
    """llama.cpp rotates neighbouring dimensions and transformers halves; the attention scores are equal."""
    from safetensors.numpy import load_file

    train(model, EXAMPLES, tmp_path, replace(QUICK, epochs=1))
    reader = gguf.GGUFReader(to_gguf(tmp_path, Architecture("llama", 2, 2), tmp_path / "adapter.gguf"))
    theirs = load_file(tmp_path / "adapter_model.safetensors")
    ours = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    assert len(ours) == len(theirs) == 2 * 7 * 2  # layers, projections, sides
    assert reader.fields["adapter.lora.alpha"].parts[-1][0] == 8

    heads, size = 2, 32
    angles = 3 * 10000.0 ** (-np.arange(size // 2) / (size // 2))
    cos, sin = np.cos(angles), np.sin(angles)

    def halves(x: np.ndarray) -> np.ndarray:
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def neighbours(x: np.ndarray) -> np.ndarray:
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)

    # random on both sides, since an untrained B is zero
    noise = np.random.default_rng(0).normal(size=(heads * size, 4))
    prefix = "base_model.model.model.layers.1.self_attn"
    for part, name in (("q_proj", "attn_q"), ("k_proj", "attn_k")):
        assert np.abs(theirs[f"{prefix}.{part}.lora_B.weight"]).max() > 0
        np.testing.assert_array_equal(
            ours[f"blk.1.{name}.weight.lora_a"], theirs[f"{prefix}.{part}.lora_A.weight"].astype(np.float16)
        )
    q, k = (theirs[f"{prefix}.{part}.lora_B.weight"].astype(float) @ noise[:4].T for part in ("q_proj", "k_proj"))
    gq, gk = (ours[f"blk.1.{part}.weight.lora_b"].astype(float) @ noise[:4].T for part in ("attn_q", "attn_k"))

    def scores(queries: np.ndarray, keys: np.ndarray, turn: object) -> np.ndarray:
        shaped = (each.T.reshape(4, heads, size) for each in (queries, keys))
        turned, still = (next(shaped), next(shaped))
        return np.einsum("ahd,bhd->hab", turn(turned), still)  # type: ignore[operator]

    np.testing.assert_allclose(scores(gq, gk, neighbours), scores(q, k, halves), atol=1e-3)


def test_an_adapter_without_a_place_is_refused(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    save_file({"base_model.model.lm_head.lora_A.weight": np.zeros((4, 64))}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterProblem, match="no place in GGUF"):
        to_gguf(tmp_path, Architecture("llama", 2, 2), tmp_path / "adapter.gguf")
