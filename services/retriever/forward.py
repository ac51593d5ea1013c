"""From batches of token ids to vectors: padded by the library's model, packed, or packed as recorded CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Protocol

import numpy as np

from services.retriever.packed import Batch, PackedBert, by_length, pack, packs
from services.retriever.token_ids import flat

TokenIds = Sequence[Sequence[int]]
Wait = Callable[[], np.ndarray]
Record = Callable[[Callable[[], Any]], tuple[Any, Callable[[], object]]]

_RECORDED_TEXTS = 64
_RECORDED_TOKENS = (2048, 1024, 512, 256, 128, 64, 32, 16)  # the largest first: the others then fit in its memory


class Forward(Protocol):
    """A model on one device. Several threads may call it."""

    def __call__(self, texts: TokenIds) -> Wait:
        """Starts on a batch. The result waits for its vectors, float32 (texts, dim), rows of length 1."""
        ...


def forward(model: Any, padding: int, left: bool) -> Forward:
    """Returns the fastest way to run a sentence-transformers model on its device; it computes in float16 on GPUs."""
    import torch

    gpu = model.device.type == "cuda"
    if not packs(model):
        return Padded(model.half() if gpu else model, padding, left)
    bert = PackedBert(model, torch.float16 if gpu else torch.float32)
    return Recorded(bert, recorder(bert.device)) if gpu and bert.attend is not by_length else Packed(bert)


class Padded:
    """Any model, by the library."""

    def __init__(self, model: Any, padding: int, left: bool) -> None:
        self._model, self._padding, self._left = model, padding, left

    def __call__(self, texts: TokenIds) -> Wait:
        import torch

        features = padded(texts, self._padding, self._left)
        with torch.inference_mode():
            moved = {name: moved_to(self._model.device, values) for name, values in features.items()}
            found = self._model(moved)["sentence_embedding"].float()
            return fetched(torch.nn.functional.normalize(found))


class Packed:
    """A BERT without padding."""

    def __init__(self, bert: PackedBert) -> None:
        self._bert = bert

    def __call__(self, texts: TokenIds) -> Wait:
        import torch

        batch = pack(texts)
        with torch.inference_mode():
            joined = moved_to(self._bert.device, np.concatenate(batch))
            ids, places, starts = joined.split([len(part) for part in batch])
            return fetched(self._bert(ids, places, starts, max(map(len, texts))))


class Recorded:
    """A BERT without padding that starts all kernels of a small batch at once.

    A batch's tokens are filled up to the next recorded number, as one more text whose vector nobody reads, and its
    texts with empty ones.
    """

    def __init__(self, bert: PackedBert, record: Record) -> None:
        import torch

        self._packed = Packed(bert)
        self._device = bert.device
        self._using = Lock()  # from the copy of the input to that of the vectors
        self._sizes: list[tuple[int, Any, Any, Callable[[], object]]] = []
        with torch.inference_mode():
            for tokens in _RECORDED_TOKENS:
                parts = [tokens, tokens, _RECORDED_TEXTS + 2]
                joined = torch.zeros(sum(parts), dtype=torch.int32, device=self._device)
                ids, places, starts = joined.split(parts)
                longest = min(tokens, bert.longest)
                found, replay = record(lambda a=ids, b=places, c=starts, d=longest: bert(a, b, c, d))  # type: ignore[misc]
                self._sizes.insert(0, (tokens, joined, found, replay))

    def __call__(self, texts: TokenIds) -> Wait:
        import torch

        total = sum(map(len, texts))
        for tokens, joined, found, replay in self._sizes:
            if total <= tokens and len(texts) <= _RECORDED_TEXTS:
                filled = np.concatenate(fill(pack(texts), tokens))
                with self._using, torch.inference_mode():
                    joined.copy_(pinned(self._device, filled), non_blocking=True)
                    replay()
                    return fetched(found[: len(texts)])
        return self._packed(texts)


def fill(batch: Batch, tokens: int) -> Batch:
    """Returns a batch of so many tokens and of _RECORDED_TEXTS texts and one more, which has the tokens added."""
    count = len(batch.ids)
    ids, places = np.zeros((2, tokens), dtype=np.int32)
    ids[:count], places[:count] = batch.ids, batch.places
    starts = np.full(_RECORDED_TEXTS + 2, count, dtype=np.int32)
    starts[: len(batch.starts)] = batch.starts
    starts[-1] = tokens
    return Batch(ids, places, starts)


def recorder(device: Any) -> Record:
    """Returns a function that records what another one launches, with its result and a replay that renews it."""
    import torch

    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        with torch.cuda.device(device):
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                work()  # chooses kernels and allocates their scratch memory
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                found = work()
        return found, graph.replay

    return record


def moved_to(device: Any, values: np.ndarray) -> Any:
    """Returns an array as a tensor on a device; the copy to a GPU does not wait for the GPU's earlier work."""
    return pinned(device, values).to(device, non_blocking=True)


def pinned(device: Any, values: np.ndarray) -> Any:
    """Returns an array as a tensor of the CPU, in memory that a GPU can read by itself if the device is one."""
    import torch

    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def fetched(vectors: Any) -> Wait:
    """Starts to copy vectors to the CPU's memory; the result waits for them, and for nothing started later."""
    import torch

    if not vectors.is_cuda:
        return vectors.numpy
    with torch.cuda.device(vectors.device):
        kept = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        kept.copy_(vectors, non_blocking=True)
        copied = torch.cuda.Event(blocking=True)
        copied.record()

    def wait() -> np.ndarray:
        copied.synchronize()
        found: np.ndarray = kept.numpy()
        return found

    return wait


def attention_of_any_shape(torch: Any) -> None:
    """Makes torch use attention kernels, in this process, that need no plan for a batch's shape.

    torch prefers cuDNN's on some GPUs. They are planned for each new number of texts and tokens, and hardly two batches
    of texts are alike.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def padded(texts: TokenIds, padding: int, left: bool) -> dict[str, np.ndarray]:
    """Returns a batch's arrays, int64 (texts, tokens), as the library's `pad` does, in a tenth of the time."""
    lengths = np.array([len(each) for each in texts])
    at = np.arange(lengths.max())
    mask = at[::-1] < lengths[:, None] if left else at < lengths[:, None]
    filled = np.full(mask.shape, padding, dtype=np.int64)
    filled[mask] = flat(texts)
    return {"input_ids": filled, "attention_mask": mask.astype(np.int64)}


def batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Groups texts of these lengths, longest first, so that each group has at most `tokens` tokens with padding."""
    cut: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not cut or (len(cut[-1]) + 1) * lengths[cut[-1][0]] > tokens:
            cut.append([])
        cut[-1].append(row)
    return cut
