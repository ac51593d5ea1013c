"""The index ladder: from exact and large to approximate and small. Names and parameters only; no FAISS here."""

from __future__ import annotations

import math

FLAT, FLAT_FP16, SQ8, IVF, IVF_PQ, HNSW = "flat", "flat-fp16", "sq8", "ivf", "ivf-pq", "hnsw"
KINDS = {
    FLAT: "exact, 4 bytes a number",
    FLAT_FP16: "exact, 2 bytes a number",
    SQ8: "every vector compared, 1 byte a number",
    IVF: "some lists compared, 2 bytes a number",
    IVF_PQ: "some lists compared, 1/4 byte a number",
    HNSW: "a graph over 2 bytes a number",
}
EXACT = frozenset({FLAT, FLAT_FP16, IVF, HNSW})  # they keep the 16 bits a number that a build writes
LISTS = frozenset({IVF, IVF_PQ})
ON_GPUS = EXACT | LISTS  # lists as lists, the others compared in full


def parameters(kind: str, count: int, dim: int) -> dict[str, int]:
    """What a rung of this kind is built and searched with, for `count` vectors of `dim` numbers.

    ivf, ivf-pq: `nlist` lists, of which `nprobe` are read; ivf-pq: `m` codes of `nbits` bits a vector. hnsw: `m`
    links a vector, `ef_construction` and `ef_search` candidates. The other kinds have none.
    """
    if kind in LISTS:
        # k-means wants some 39 points a centroid; far fewer lists than 4 * sqrt(count) make them long.
        nlist = max(1, min(round(4 * math.sqrt(count)), count // 39))
        if kind == IVF:  # all that it misses is in lists that it does not read, ivf-pq's codes miss more than that
            return {"nlist": nlist, "nprobe": min(nlist, 256, max(16, nlist // 8))}
        return {
            "nlist": nlist,
            "nprobe": min(nlist, 64, max(8, nlist // 16)),
            "m": next(m for m in range(max(1, dim // 4), 0, -1) if dim % m == 0),
            "nbits": max(1, min(8, int(math.log2(count)))),
        }
    if kind == HNSW:
        return {"m": 32, "ef_construction": 80, "ef_search": 128}
    return {}


def check(kind: str, given: dict[str, int]) -> None:
    """ValueError if `given` are not the parameters of `kind`."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not supported, only {', '.join(KINDS)}")
    names = parameters(kind, 1, 1).keys()
    if given.keys() != names or not all(type(value) is int and value > 0 for value in given.values()):
        raise ValueError(f"kind {kind!r} has the parameters {[*names]}, positive whole numbers, not {given}")
