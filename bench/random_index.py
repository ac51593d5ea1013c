"""An index of random vectors, to measure what depends on its size only: `python -m bench.random_index`.

Random vectors of length 1 in float16 and passages of a few words, in the folder that `index build` would make; its
encoder has E5-base's shape and random weights (or is the folder given), so that any question can be asked of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bench import encoder_folder
from search_agent.types import Passage
from services.retriever import bm25, dense, folders
from services.retriever.passages import PassageStore, PassageWriter, embedded_text

_CHUNK = 262_144


def write(count: int, dim: int, encoder: Path, name: str, out: Path, seed: int = 0) -> Path:
    """The index's folder. Vectors are drawn on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    with folders.new_index(out, name, force=True) as work:
        with PassageWriter(work) as writer:
            for number in range(count):
                writer.add(Passage(f"p{number}", f"Passage {number}", "It is made up."))
        vectors = np.lib.format.open_memmap(
            work / dense.VECTORS, mode="w+", dtype="<f2", shape=(count, dim), version=(1, 0)
        )
        for start in tqdm(range(0, count, _CHUNK), "vectors", unit_scale=_CHUNK, unit=" rows", disable=None):
            drawn = torch.randn(min(_CHUNK, count - start), dim, device=device)
            vectors[start : start + len(drawn)] = torch.nn.functional.normalize(drawn).half().cpu().numpy()
        vectors.flush()
        about = folders.About(name, str(encoder), dim, count, "random vectors", "CC0-1.0", bm25=bm25.NONE)
        folders.seal(work, about, dense.VECTORS)
    return out / name


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.random_index", description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--encoder", type=Path, help="a folder of sentence-transformers (default: made, 768 numbers)")
    parser.add_argument("--dim", type=int, default=768, help="of the encoder's vectors (default: %(default)s)")
    parser.add_argument("--name", default="random")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of index folders")
    args = parser.parse_args()
    encoder = args.encoder
    if encoder is None:
        encoder = args.out.resolve() / "e5-base-shape"
        if not encoder.exists():
            words = (embedded_text(passage) for passage in PassageStore(Path("data/demo/indexes/demo")))
            encoder_folder.write(encoder, words, hidden=args.dim)
    print(write(args.vectors, args.dim, encoder, args.name, args.out))


if __name__ == "__main__":
    main()
