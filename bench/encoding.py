"""Measures passages per second of our encoder and of sentence-transformers: `python -m bench.encoding --out FILE`.

Both encode passages in random order with the same model: the one that `--model` names, or a BERT of E5-base's shape
with random weights. sentence-transformers runs with its defaults, and in float16 with several batch sizes. Each encoder
takes as many passages as it encodes in `--seconds`, at most `--passages`. Our encoder's parts are timed alone, too:
tokenizing, and the model over batches that were tokenized before. On a GPU the result also has the share of the
bfloat16 throughput that encoder and model reach; that throughput is measured with a product of two large matrices.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import sentence_transformers
import torch

from bench import encoder_folder
from services.retriever.forward import Forward, batches, forward
from services.retriever.passages import PassageStore, embedded_text
from services.retriever.token_ids import token_ids
from services.retriever.torch_encoder import PASSAGE_TOKENS, SentenceTransformerEncoder, batch_tokens

THEIR_BATCHES = (32, 128, 512)
_SIDE = 8192  # rows and columns of the matrices
_WORDS = 4000  # passages that the vocabulary is learned from
_FIRST = 2048  # passages of the first timing, which decides how many follow

Encode = Callable[[list[str]], object]


def clock(work: Encode, texts: list[str]) -> float:
    started = time.perf_counter()
    work(texts)
    return time.perf_counter() - started


def paces(
    kinds: Mapping[str, Encode],
    texts: list[str],
    seconds: float,
    rounds: int,
    first: int = _FIRST,
    clock: Callable[[Encode, list[str]], float] = clock,
) -> dict[str, dict[str, float]]:
    """Returns each kind's passages per second, and how many it encoded: what `seconds` allow, at least `first`."""
    shares: dict[str, list[str]] = {}
    for kind, work in kinds.items():
        clock(work, texts[:first])  # warms up
        speed = len(texts[:first]) / clock(work, texts[:first])
        shares[kind] = texts[: max(first, int(speed * seconds))]
        print(f"{kind}: {speed:.0f} passages/s at first", flush=True)
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):  # alternately, since the machine's other load changes
        for kind, work in kinds.items():
            took[kind].append(clock(work, shares[kind]))
            print(f"{kind}: {len(shares[kind])} passages in {took[kind][-1]:.2f} s", flush=True)
    return {
        kind: {"passages_per_s": len(shares[kind]) / statistics.median(took[kind]), "passages": len(shares[kind])}
        for kind in kinds
    }


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
    """Counts the floating-point operations of a BERT's layers over texts of these lengths in tokens."""
    return float(sum(layers * (24 * hidden**2 * each + 4 * hidden * each**2) for each in lengths))


def model_alone(model: Forward, ids: Sequence[list[int]], tokens: int) -> float:
    """Returns the texts per second of a model over batches of at most so many tokens, which wait for nothing else."""
    cut = [[ids[row] for row in batch] for batch in batches([len(each) for each in ids], tokens)]
    model(cut[0])()
    started = time.perf_counter()
    for wait in [model(batch) for batch in cut]:
        wait()
    return len(ids) / (time.perf_counter() - started)


def measure(folder: str, texts: list[str], seconds: float, rounds: int, first: int) -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    ours = SentenceTransformerEncoder(folder, sentence_transformers)
    theirs = sentence_transformers.SentenceTransformer(folder)
    theirs.max_seq_length = min(PASSAGE_TOKENS, theirs.max_seq_length or PASSAGE_TOKENS)

    def encode(texts: list[str], size: int = 32, half: bool = False) -> object:
        if gpu:
            theirs.half() if half else theirs.float()
        prefixed = [f"passage: {text}" for text in texts]
        return theirs.encode(prefixed, batch_size=size, normalize_embeddings=True, show_progress_bar=False)

    if gpu:
        ours.passages(texts)  # starts what large calls need
    kinds: dict[str, Encode] = {"ours": ours.passages, "as it comes": encode}
    if gpu:
        kinds |= {f"float16, {size} a batch": partial(encode, size=size, half=True) for size in THEIR_BATCHES}
    found = paces(kinds, texts, seconds, rounds, first)
    speeds = {kind: each["passages_per_s"] for kind, each in found.items()}
    taken = [f"passage: {text}" for text in texts[: int(found["ours"]["passages"])]]
    tokenize = token_ids(theirs.tokenizer, theirs.max_seq_length)
    started = time.perf_counter()
    ids = tokenize(taken)
    tokenizing = time.perf_counter() - started
    lengths = [len(each) for each in ids]
    tokenizer = theirs.tokenizer
    model = forward(theirs.float(), tokenizer.pad_token_id or 0, tokenizer.padding_side == "left")
    alone = model_alone(model, ids, batch_tokens(gpu))
    result: dict[str, Any] = {
        "encoders": found,
        "ours_to_as_it_comes": speeds["ours"] / speeds["as it comes"],
        "ours_to_their_best": speeds["ours"] / max(speed for kind, speed in speeds.items() if kind != "ours"),
        "tokens_a_passage": sum(lengths) / len(lengths),
        "tokenizing_only_per_s": len(taken) / tokenizing,
        "model_only_per_s": alone,
        "part_of_model_only": speeds["ours"] / alone,
    }
    if gpu:
        shape = theirs[0].auto_model.config
        a_passage = operations(lengths, shape.hidden_size, shape.num_hidden_layers) / len(lengths)
        reached = ceiling()
        result |= {
            "tflops": a_passage * speeds["ours"] / 1e12,
            "ceiling_tflops": reached / 1e12,
            "part_of_ceiling": a_passage * speeds["ours"] / reached,
            "model_only_part_of_ceiling": a_passage * alone / reached,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.encoding", description=__doc__)
    parser.add_argument("--model", default="", help="a hub id or folder; not set: E5-base's shape, random weights")
    parser.add_argument(
        "--index", type=Path, default=Path("data/demo/indexes/demo"), help="index whose passages are encoded"
    )
    parser.add_argument(
        "--passages", type=int, default=65_536, help="upper limit; passages repeat if the index has fewer"
    )
    parser.add_argument("--first", type=int, default=_FIRST, help="passages to warm up with (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="seconds per encoder and round (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds; the result is their median (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    known = [embedded_text(passage) for passage in PassageStore(args.index)]
    random.Random(0).shuffle(known)
    texts = [*islice(cycle(known), args.passages)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model or str(encoder_folder.write(Path(scratch) / "e5-base-shape", known[:_WORDS]))
        result = measure(folder, texts, args.seconds, args.rounds, args.first)
    print(json.dumps(result, indent=1))
    about = {"model": args.model or "E5-base's shape, random weights", "seconds": args.seconds, "rounds": args.rounds}
    args.out.write_text(json.dumps({**about, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
