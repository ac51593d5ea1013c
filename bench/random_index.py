"""Writes an index of random vectors, to measure costs that depend on size only: `python -m bench.random_index`.

The folder is like one that `index build` makes: random float16 vectors of length 1, and the same 16 short passages over
and over. Its encoder is the folder given, or one of E5-base's shape with random weights, so that the index answers any
question.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bench import encoder_folder
from search_agent.types import Passage
from services.retriever import bm25, folders, kinds
from services.retriever.manifest import Manifest
from services.retriever.passages import BLOBS, BLOCK, OFFSETS, PassageStore, PassageWriter, embedded_text

_CHUNK = 262_144
_WORDS = 4000  # passages that the encoder's vocabulary is learned from


def write(count: int, dim: int, encoder: Path, name: str, out: Path, seed: int = 0) -> Path:
    """Writes the index and returns its folder. Draws on a GPU if there is one. `count` must be a multiple of BLOCK."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    with folders.new_index(out, name, force=True) as work:
        _passages(count // BLOCK, work)
        with (work / kinds.VECTORS).open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (count, dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in tqdm(range(0, count, _CHUNK), "vectors", unit_scale=_CHUNK, unit=" rows", disable=None):
                drawn = torch.randn(min(_CHUNK, count - start), dim, device=device)
                file.write(torch.nn.functional.normalize(drawn).half().cpu().numpy().data)
        made = Manifest(name, str(encoder), dim, count, "random vectors", "CC0-1.0", bm25=bm25.NONE.name)
        folders.seal(work, made, kinds.VECTORS)
    return out / name


def _passages(blocks: int, folder: Path) -> None:
    """Writes one compressed block `blocks` times: compressing millions would take longer than everything else."""
    with PassageWriter(folder) as writer:
        for number in range(BLOCK):
            writer.add(Passage(f"p{number}", f"Passage {number}", "It is made up."))
    block = (folder / BLOBS).read_bytes()
    (folder / BLOBS).write_bytes(block * blocks)
    np.save(folder / OFFSETS, np.arange(blocks + 1, dtype=np.uint64) * np.uint64(len(block)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.random_index", description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--encoder", type=Path, help="a sentence-transformers folder (default: one is made)")
    parser.add_argument(
        "--dim", type=int, default=768, help="dimensions of the encoder's vectors (default: %(default)s)"
    )
    parser.add_argument("--name", default="random")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to put the index folder in")
    args = parser.parse_args()
    if args.vectors < 1 or args.vectors % BLOCK:
        parser.error(f"--vectors must be a multiple of {BLOCK}")
    started = time.perf_counter()
    encoder = args.encoder
    if encoder is None:
        encoder = args.out.resolve() / "e5-base-shape"
        if not encoder.exists():
            words = map(embedded_text, PassageStore(Path("data/demo/indexes/demo")))
            encoder_folder.write(encoder, islice(words, _WORDS), hidden=args.dim)
    made = write(args.vectors, args.dim, encoder, args.name, args.out)
    print(f"{made} in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
