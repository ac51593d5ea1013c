"""Writes a sentence-transformers folder with random weights, to measure speed and for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write(
    folder: Path, texts: Iterable[str], hidden: int = 768, layers: int = 12, max_tokens: int = 512, words: int = 30_522
) -> Path:
    """Writes a BERT of the given shape (default: E5-base's) with mean pooling and a vocabulary learned from `texts`.

    Needs torch and sentence-transformers. Name the folder after the model it stands for: prefixes depend on the name.
    """
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = learned(texts, words, max_tokens)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=words,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
        max_position_embeddings=max_tokens,
    )
    return pooled(BertModel(config), tokenizer, folder)


def learned(texts: Iterable[str], words: int, max_tokens: int) -> Any:
    """Returns a BERT's tokenizer with a vocabulary learned from `texts`."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=words, show_progress=False)
    return BertTokenizerFast(tokenizer_object=tokenizer._tokenizer, model_max_length=max_tokens)


def pooled(model: Any, tokenizer: Any, folder: Path, pooling: str = "mean") -> Path:
    """Writes a model of transformers with its tokenizer as a sentence-transformers folder."""
    import sentence_transformers
    from sentence_transformers import models

    with tempfile.TemporaryDirectory() as parts:
        model.save_pretrained(parts)
        tokenizer.save_pretrained(parts)
        transformer = models.Transformer(parts, max_seq_length=tokenizer.model_max_length)
        last = models.Pooling(model.config.hidden_size, pooling)
        sentence_transformers.SentenceTransformer(modules=[transformer, last]).save(str(folder))
    return folder
