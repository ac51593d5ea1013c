"""A fake encoder and small corpora, for tests and for the process that a test kills."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from services.retriever.build import Plan, build
from services.retriever.encoders import Encoder


class FakeEncoder:
    """Makes pseudo-random unit vectors from the text alone, and records what it was asked."""

    at_once = 32
    parameters: Mapping[str, str] = {}

    def __init__(self, name: str = "fake", dim: int = 16, seconds_per_passage: float = 0.0) -> None:
        self.name = name
        self.dim = dim
        self.query_batches: list[list[str]] = []
        self.passages_encoded = 0
        self._seconds = seconds_per_passage

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        self.query_batches.append([*texts])
        if "poison" in texts:
            raise RuntimeError("cannot encode that")
        return self._vectors(texts)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        self.passages_encoded += len(texts)
        time.sleep(self._seconds * len(texts))
        return self._vectors(texts)

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
            row = np.random.default_rng(seed).normal(size=self.dim)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, dtype=np.float32)


def write_corpus(path: Path, count: int) -> Path:
    """`count` passages; passage n has a word of its own, "wordn", and all share "common"."""
    lines = [{"id": f"p{n}", "title": f"Title {n}", "text": f"common word{n} text"} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def build_index(
    out: Path, count: int = 40, name: str = "small", encoder: Encoder | None = None, dense: bool = True
) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    corpus = write_corpus(out / f"{name}.jsonl", count)
    made = encoder or FakeEncoder()
    plan = Plan(corpus=corpus, name=name, out=out, encoder=made.name if dense else "")
    return build(plan, lambda _: made, lambda _: None)


if __name__ == "__main__":  # CORPUS OUT: a build that takes seconds, to be killed
    slow = FakeEncoder(seconds_per_passage=0.01)
    build(Plan(Path(sys.argv[1]), "killed", Path(sys.argv[2]), slow.name), lambda _: slow, print)
