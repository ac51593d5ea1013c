"""Encoders that sentence-transformers loads: from the hub or a folder, on GPUs if there are any."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np

from services.retriever.errors import EncoderUnavailable
from services.retriever.forward import Forward, attention_of_any_shape, batches, forward
from services.retriever.prefixes import NOTHING, PASSAGE_PREFIX, QUERY_PREFIX, prefixes
from services.retriever.token_ids import TokenIds, in_processes, token_ids

QUERY_TOKENS, PASSAGE_TOKENS = 256, 180  # as in the experiments of s3; longer texts are cut
_SHARE = 2048  # texts tokenized at a time: enough for several batches, few enough that encoding starts soon
_SHARES_A_GPU = 4  # at once: one is encoded while others are tokenized
_MANY = 8192  # texts that are worth the start of processes
_PROCESSES_A_GPU, _CORES_A_PROCESS = 3, 4


def batch_tokens(gpu: bool) -> int:
    """Returns the number of tokens that keep a device busy."""
    return 65_536 if gpu else 4096


class SentenceTransformerEncoder:
    """A model that sentence-transformers loads from the hub or a folder: in float16 on GPUs if there are any.

    Texts are sorted by length and batched by tokens, which leaves next to no padding. Some texts are tokenized while
    others are encoded; on a GPU, other processes tokenize if there are many. Prefixes that are not `given` come from
    the model's configuration, or from its name.
    """

    def __init__(self, name: str, module: Any, given: Mapping[str, str] = NOTHING, every_gpu: bool = False) -> None:
        import torch

        attention_of_any_shape(torch)
        self.name = name
        gpus = torch.cuda.device_count()
        devices = [f"cuda:{number}" for number in range(gpus if every_gpu else min(gpus, 1))] or ["cpu"]
        try:
            models = [module.SentenceTransformer(name, device=device).eval() for device in devices]
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise EncoderUnavailable(f"encoder {name} cannot be loaded: {reason}") from error
        self.parameters: Mapping[str, str] = prefixes(name, getattr(models[0], "prompts", {}), given)
        tokenizer, longest = models[0].tokenizer, models[0].max_seq_length or QUERY_TOKENS
        self._query_ids = token_ids(tokenizer, min(QUERY_TOKENS, longest))
        self._passage_ids = token_ids(tokenizer, min(PASSAGE_TOKENS, longest))
        wanted = _PROCESSES_A_GPU * len(models) if gpus else 0  # on a CPU, the model needs the cores
        processes = min(wanted, len(os.sched_getaffinity(0)) // _CORES_A_PROCESS)
        self._many_passage_ids = in_processes(self._passage_ids, processes)
        self._batch_tokens = batch_tokens(gpus > 0)
        self.at_once = 16_384 * len(models) if gpus else 32
        self._free: SimpleQueue[Forward] = SimpleQueue()
        forwards = [forward(each, tokenizer.pad_token_id or 0, tokenizer.padding_side == "left") for each in models]
        for each in forwards * (_SHARES_A_GPU if gpus else 1):
            self._free.put(each)
        # One less than there are shares at once, since whoever calls works on one of them.
        self._pool = ThreadPoolExecutor(max(1, self._free.qsize() - 1), thread_name_prefix="encoder")
        self.dim: int = forwards[0](self._query_ids(["dimension"]))().shape[1]

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode([self.parameters[QUERY_PREFIX] + text for text in texts], self._query_ids)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        tokenize = self._passage_ids if len(texts) < _MANY else self._many_passage_ids
        return self._encode([self.parameters[PASSAGE_PREFIX] + text for text in texts], tokenize)

    def _encode(self, texts: list[str], tokenize: TokenIds) -> np.ndarray:
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)

        def encode(share: list[int]) -> None:
            ids = tokenize([texts[row] for row in share])
            model = self._free.get()
            try:
                cut = batches([len(each) for each in ids], self._batch_tokens)
                started = [(batch, model([ids[at] for at in batch])) for batch in cut]
            finally:
                self._free.put(model)
            for batch, wait in started:
                vectors[[share[at] for at in batch]] = wait()

        by_length = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        shares = [by_length[start : start + _SHARE] for start in range(0, len(texts), _SHARE)]
        others = [self._pool.submit(encode, share) for share in shares[1:]]
        try:
            for share in shares[:1]:
                encode(share)  # by this thread: waking another takes time, and a query is one share
            for other in others:
                other.result()
        finally:
            for other in others:  # after an error, nobody reads the rest
                other.cancel()
        return vectors
