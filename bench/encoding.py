"""Passages a second of our encoder and of sentence-transformers itself: `python -m bench.encoding --out FILE`.

Both encode the same passages with the same model, a BERT of E5-base's shape with random weights unless `--model` names
one: as sentence-transformers comes, and in our precision with the best of several batch sizes. On a GPU the part of
its bfloat16 ceiling that we reach is told too; the ceiling is measured, as a product of two large matrices.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import sentence_transformers
import torch

from bench import encoder_folder
from services.retriever.encoders import PASSAGE_TOKENS, SentenceTransformerEncoder
from services.retriever.passages import PassageStore, embedded_text

THEIR_BATCHES = (32, 128, 512)
_SIDE = 8192  # of the matrices


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ceiling() -> float:
    """bfloat16 operations a second of the GPU."""
    one = torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(13):
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        one @ one
        ended.record()
        torch.cuda.synchronize()
        times.append(begun.elapsed_time(ended) / 1e3)
    return 2 * _SIDE**3 / statistics.median(times[3:])


def operations(lengths: Sequence[int], hidden: int, layers: int) -> float:
    """Of a BERT's layers over texts of so many tokens: weights, and each token's attention to its text."""
    return float(sum(layers * (24 * hidden**2 * each + 4 * hidden * each**2) for each in lengths))


def measure(folder: str, texts: list[str], rounds: int) -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    ours = SentenceTransformerEncoder(folder, sentence_transformers)
    theirs = sentence_transformers.SentenceTransformer(folder)
    theirs.max_seq_length = min(PASSAGE_TOKENS, theirs.max_seq_length or PASSAGE_TOKENS)
    prefixed = [f"passage: {text}" for text in texts]
    lengths = [
        len(each) for each in theirs.tokenizer(prefixed, truncation=True, max_length=theirs.max_seq_length)["input_ids"]
    ]

    def encode(size: int) -> object:
        return theirs.encode(prefixed, batch_size=size, normalize_embeddings=True, show_progress_bar=False)

    kinds: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.passages(texts),
        "as it comes": lambda: encode(32),
    }
    if gpu:
        kinds |= {f"float16, {size} a batch": lambda size=size: encode(size) for size in THEIR_BATCHES}
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):  # in turn; the first warms up
        for kind, work in kinds.items():
            if gpu:
                theirs.half() if "float16" in kind else theirs.float()
            elapsed = seconds(work)
            print(f"{'round ' + str(number) if number else 'warm-up'}: {kind}, {elapsed:.2f} s", flush=True)
            if number:
                took[kind].append(elapsed)
    found = {kind: len(texts) / statistics.median(times) for kind, times in took.items()}
    best = max(speed for kind, speed in found.items() if kind != "ours")
    result: dict[str, Any] = {
        "passages_per_s": found,
        "ours_to_as_it_comes": found["ours"] / found["as it comes"],
        "ours_to_their_best": found["ours"] / best,
        "tokens_a_passage": sum(lengths) / len(lengths),
        "tokenizing_only_per_s": len(texts) / seconds(lambda: theirs.tokenizer(prefixed)),
    }
    if gpu:
        shape = theirs[0].auto_model.config
        done = operations(lengths, shape.hidden_size, shape.num_hidden_layers) / len(texts) * found["ours"]
        reached = ceiling()
        result |= {"tflops": done / 1e12, "ceiling_tflops": reached / 1e12, "part_of_ceiling": done / reached}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.encoding", description=__doc__)
    parser.add_argument("--model", default="", help="a hub id or folder; not set: E5-base's shape, random weights")
    parser.add_argument("--index", type=Path, default=Path("data/demo/indexes/demo"), help="whose passages are used")
    parser.add_argument("--passages", type=int, default=65_536, help="they are repeated where there are fewer")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is told (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    known = [embedded_text(passage) for passage in PassageStore(args.index)]
    texts = [*islice(cycle(known), args.passages)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model or str(encoder_folder.write(Path(scratch) / "e5-base-shape", known[:20_000]))
        result = measure(folder, texts, args.rounds)
    print(json.dumps(result, indent=1))
    about = {"model": args.model or "E5-base's shape, random weights", "passages": args.passages, "rounds": args.rounds}
    args.out.write_text(json.dumps({**about, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
