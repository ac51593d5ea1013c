"""Packed batches give the vectors that the library gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.retriever.forward import Packed, Padded, Recorded, fill, forward
from services.retriever.packed import PackedBert, pack, packs

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
sentence_transformers: Any = pytest.importorskip("sentence_transformers")
from bench import encoder_folder  # noqa: E402

SHAPE = {
    "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 70, "type_vocab_size": 1,
}  # fmt: skip
MODELS = {
    "bert": lambda **more: transformers.BertModel(transformers.BertConfig(**SHAPE | more)),
    "roberta": lambda **more: transformers.RobertaModel(transformers.RobertaConfig(**SHAPE | more)),
    "xlm-roberta": lambda **more: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**SHAPE | more)),
}
LENGTHS = {
    "ragged": [64, 3, 17, 17, 2, 40],
    "equal": [9, 9, 9],
    "one": [5],
    "shortest": [2],
    "longest": [64, 64],
    "one empty": [7, 0, 4],
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Returns a function that makes a sentence-transformers model with random weights, biases among them."""

    def make(kind: str, pooling: str = "mean", **more: Any) -> Any:
        torch.manual_seed(0)
        model = MODELS[kind](**more)
        for name, values in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(values, std=0.5)
        learned = encoder_folder.learned(["a few words"], words=100, max_tokens=64)
        folder = tmp_path_factory.mktemp("models") / kind
        encoder_folder.pooled(model, learned, folder, pooling)
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu").eval()

    return make


def ids(lengths: list[int]) -> list[list[int]]:
    drawn = np.random.default_rng(0)
    return [drawn.integers(5, 500, length).tolist() for length in lengths]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", MODELS)
def test_vectors_are_those_of_the_library(load: Callable[..., Any], kind: str, pooling: str) -> None:
    model = load(kind, pooling)
    padding = model[0].auto_model.config.pad_token_id
    assert packs(model)
    ours, theirs = forward(model, padding, False), Padded(model, padding, False)
    assert isinstance(ours, Packed)
    for case, lengths in LENGTHS.items():
        if case != "one empty":
            assert np.abs(ours(ids(lengths))() - theirs(ids(lengths))()).max() < 1e-5, case


def test_an_empty_text_harms_no_other(load: Callable[..., Any]) -> None:
    bert = Packed(PackedBert(load("bert"), torch.float32))
    asked = ids(LENGTHS["one empty"])
    found = bert(asked)()
    assert np.isfinite(found).all()
    assert np.abs(found[[0, 2]] - bert([asked[0], asked[2]])()).max() < 1e-6


def again(work: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
    """Stands for a recording on a GPU: a replay computes again, into the memory of the first result."""
    found = work()
    return found, lambda: found.copy_(work())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_recorded_batches_give_the_same_vectors(load: Callable[..., Any], pooling: str) -> None:
    bert = PackedBert(load("bert", pooling), torch.float32)
    recorded, plain = Recorded(bert, again), Packed(bert)
    for lengths in [*LENGTHS.values(), [16], [17], [2] * 64, [2] * 65, [64] * 32, [64] * 33]:
        waits = [recorded(ids(lengths)), recorded(ids(lengths[::-1]))]
        assert np.abs(waits[1]() - plain(ids(lengths[::-1]))()).max() < 1e-5
    assert np.abs(recorded(ids([3, 4]))() - plain(ids([3, 4]))()).max() < 1e-5


def test_a_batch_is_filled_with_empty_texts_and_one_of_padding() -> None:
    filled = fill(pack([[7, 8, 9], [5]]), 16)
    assert [len(part) for part in filled] == [16, 16, 66]
    assert filled.ids[:5].tolist() == [7, 8, 9, 5, 0]
    assert filled.places[:5].tolist() == [0, 1, 2, 0, 0]
    assert filled.starts[:4].tolist() == [0, 3, 4, 4]
    assert filled.starts[-2:].tolist() == [4, 16]
    assert {part.dtype for part in filled} == {np.dtype(np.int32)}


def test_what_is_no_plain_bert_is_left_to_the_library(load: Callable[..., Any]) -> None:
    assert isinstance(forward(load("bert", hidden_act="relu"), 0, False), Padded)
    assert not packs(load("bert", "max"))
    adapted = load("bert")

    class Adapter(torch.nn.Linear):  # type: ignore[misc]
        pass

    adapted[0].auto_model.encoder.layer[1].output.dense = Adapter(128, 64)
    assert not packs(adapted)
