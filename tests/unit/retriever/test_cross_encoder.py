"""The reranker over the real sentence-transformers, with a model of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.retriever.rerankers import CrossEncoderReranker, load_reranker

sentence_transformers: Any = pytest.importorskip("sentence_transformers")


def test_a_real_cross_encoder_from_a_folder(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    reranker = load_reranker(str(tmp_path))
    scores = reranker.scores([("abc", "def " * 600), ("abc", "xyz"), ("abc", "xyz")])
    assert scores.shape == (3,)
    assert scores[1] == pytest.approx(scores[2])
    spelt, other = reranker.scores([("abc", "d [SEP] f"), ("abc", "d !sep! f")])  # no vocabulary has either sign
    assert spelt == other

    import torch

    narrow = CrossEncoderReranker(str(tmp_path), sentence_transformers, 2, torch.autocast("cpu", torch.bfloat16))
    found = narrow.scores([("abc", "def " * 600), ("abc", "xyz"), ("abc", "xyz")])
    assert 0 < np.abs(found - scores).max() < 0.05
