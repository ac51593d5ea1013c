"""Exact search over float16 vectors in the memory of one or more GPUs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from services.retriever.columns import Selection
from services.retriever.errors import IndexRefused, LibraryMissing
from services.retriever.rows import Rows

_CHUNK = 262_144  # rows copied to a GPU at a time
SCRATCH_BYTES = 1 << 30  # memory that a search needs besides the vectors; half of it holds the scores of a tile
_BLOCK = 128  # scores a block; the best of each block is looked at first

Table = tuple[np.ndarray, np.ndarray]  # scores float32 and rows int64, both (queries, k), best first


class Device(Protocol):
    """A GPU, or a fake of one, that holds vectors and compares queries with all of them."""

    name: str

    def free_bytes(self) -> int: ...

    def hold(self, count: int, dim: int) -> None:
        """Allocates a table of float16 (count, dim)."""
        ...

    def fill(self, start: int, rows: np.ndarray) -> None: ...

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Table:
        """Returns the k nearest rows by inner product. `queries` are float32 (queries, dim).

        Rows that `allowed`, a truth value a row, leaves out have a score of minus infinity.
        """
        ...


class _Shard(NamedTuple):
    device: Device
    start: int
    held: int


class GpuFlat:
    """All rows of `rows` on `devices`, in equal shares, with the search method of a FAISS index.

    Raises IndexRefused, naming `path`, where there is no room.
    """

    def __init__(self, rows: Rows, devices: Sequence[Device], path: Path) -> None:
        count, dim = rows.shape
        share = -(-count // len(devices))
        self._shards = [
            _Shard(device, start, min(share, count - start))
            for device, start in zip(devices, range(0, count, share), strict=False)
        ]
        for device, _, held in self._shards:
            check_room(device, 2 * held * dim, 2 * count * dim, SCRATCH_BYTES, path)
            device.hold(held, dim)
        for device, first, held in self._shards:
            for start in range(0, held, _CHUNK):
                stop = min(start + _CHUNK, held)
                device.fill(start, np.asarray(rows[first + start : first + stop], dtype=np.float16))
        self._pool = ThreadPoolExecutor(len(self._shards), thread_name_prefix="gpu")

    def search(self, vectors: np.ndarray, k: int, selection: Selection | None = None) -> Table:
        def ask(shard: _Shard) -> Table:
            allowed = selection.mask[shard.start : shard.start + shard.held] if selection else None
            scores, rows = shard.device.search(vectors, min(k, shard.held), allowed)
            return scores, np.where(np.isneginf(scores), -1, rows + shard.start)

        others = self._pool.map(ask, self._shards[1:])
        found = [ask(self._shards[0]), *others]  # the first by this thread: waking another takes time
        scores = np.concatenate([each for each, _ in found], axis=1)
        rows = np.concatenate([each for _, each in found], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        queries = np.arange(len(scores))[:, None]
        return scores[queries, best], rows[queries, best]


def check_room(device: Device, share: int, total: int, own: int, path: Path) -> None:
    """Raises IndexRefused, naming `path`, if `device` has no room for its `share` (bytes) of `total` bytes.

    Each GPU needs `own` bytes more, however many GPUs share the total.
    """
    free = device.free_bytes()
    if share + own <= free:
        return
    text = f"{device.name} would have to hold {(share + own) / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    if free > own:
        text += f"; {-(-total // (free - own))} such GPUs have room for it"
    raise IndexRefused(path, text)


def torch_devices(gpus: int) -> list[Device]:
    """Returns the first `gpus` GPUs. Raises LibraryMissing."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise LibraryMissing(f"RETRIEVER_GPUS needs torch: {error}") from error
    if (there := torch.cuda.device_count()) < gpus:
        raise LibraryMissing(f"RETRIEVER_GPUS is {gpus}, and torch sees {there} GPUs")
    return [TorchDevice(torch.device("cuda", number)) for number in range(gpus)]


class TorchDevice:
    """A GPU that torch drives: one matrix product a tile, then the best of each block of scores, then the best.

    On an H200 one query over 21 million vectors takes 1.05 times as long as reading them; FAISS's brute force takes
    ten times as long (bench/README.md).
    """

    def __init__(self, device: Any, scratch_bytes: int = SCRATCH_BYTES) -> None:
        self.name = str(device)
        self._device = device
        self._scratch_bytes = scratch_bytes
        self._table: Any = None

    def free_bytes(self) -> int:
        import torch

        free: int = torch.cuda.mem_get_info(self._device)[0]
        return free

    def hold(self, count: int, dim: int) -> None:
        import torch

        self._table = torch.empty((count, dim), dtype=torch.float16, device=self._device)

    def fill(self, start: int, rows: np.ndarray) -> None:
        import torch

        self._table[start : start + len(rows)].copy_(torch.from_numpy(np.array(rows)))

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Table:
        import torch

        with torch.inference_mode():
            # Cast on the GPU: on the CPU, torch would wake all of its threads for 64 queries, which took 8 ms.
            asked = torch.from_numpy(queries).to(self._device).half()
            tile = max(_BLOCK, self._scratch_bytes // (8 * len(queries)) // _BLOCK * _BLOCK)
            found = []
            hidden = None if allowed is None else torch.from_numpy(~allowed).to(self._device)
            for start in range(0, len(self._table), tile):
                products = _products(asked, self._table[start : start + tile])
                if hidden is not None:
                    products.masked_fill_(hidden[start : start + tile], float("-inf"))
                scores, rows = _best(products, k)
                found.append((scores, rows + start))
            scores, places = _top(torch.cat([each for each, _ in found], 1), k)
            rows = torch.cat([each for _, each in found], 1).gather(1, places)
            return scores.cpu().numpy(), rows.cpu().numpy()


def _products(queries: Any, vectors: Any) -> Any:
    """Returns float32 (queries, vectors): float16 has too few digits to tell near neighbours apart."""
    import torch

    if queries.is_cuda:
        return torch.mm(queries, vectors.T, out_dtype=torch.float32)
    return queries.float() @ vectors.float().T


def _best(scores: Any, k: int) -> tuple[Any, Any]:
    """Returns the k best columns of each row. They lie in the k blocks with the best maxima, so this is exact.

    It passes over the scores once; topk would pass over them several times.
    """
    import torch

    queries, count = scores.shape
    whole = count // _BLOCK
    if whole <= 2 * k:
        return _top(scores, k)
    blocks = scores[:, : whole * _BLOCK].view(queries, whole, _BLOCK)
    _, chosen = _top(blocks.amax(2), k)
    inside = blocks.gather(1, chosen[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    columns = (chosen[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=scores.device)).flatten(1)
    inside = torch.cat([inside, scores[:, whole * _BLOCK :]], 1)
    tail = torch.arange(whole * _BLOCK, count, device=scores.device).expand(queries, -1)
    found, places = _top(inside, k)
    return found, torch.cat([columns, tail], 1).gather(1, places)


def _top(scores: Any, k: int) -> tuple[Any, Any]:
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    return best.values, best.indices
