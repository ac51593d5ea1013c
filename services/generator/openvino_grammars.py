"""Compiles grammars for OpenVINO's pipelines, beside the requests that they work on."""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from services.generator import gguf_header

_DEEPEST = 200  # brackets within each other; the compiler's stack is full at some tens of thousands
_MOST = 64  # a compiled grammar of s3 takes 2 to 6 MiB
_NUMBER = 4  # GGUF's type of a layer count


class Grammars:
    """Compiles grammars for all pipelines that share a tokenizer, with which OpenVINO keeps them.

    A pipeline that met a new grammar would compile it while its other requests wait, for 0.8 s on two cores with s3's,
    and a wrong one would end them. So a grammar is first used here, in a pipeline of the model's first layer.
    """

    def __init__(self, model: Path, tokenizer: Any) -> None:
        """`model` is a GGUF file. Raises whatever OpenVINO raises, and ValueError for a file without layers."""
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = 1
        with tempfile.TemporaryDirectory() as folder:
            layer = Path(folder) / model.name
            _write_first_layer(model, layer)
            self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
                str(layer), tokenizer, scheduler, "CPU", INFERENCE_NUM_THREADS=1, sampler_num_threads=1
            )
        self._known = {""}
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="grammars")

    @property
    def full(self) -> bool:
        """True if so many are kept that the model should be started anew, because OpenVINO forgets none."""
        return len(self._known) > _MOST

    async def compile(self, grammar: str) -> None:
        """Returns once a grammar can be used. Raises ValueError for a wrong one."""
        if grammar not in self._known:
            if _depth(grammar) > _DEEPEST:
                raise ValueError(f"the grammar has more than {_DEEPEST} brackets within each other")
            await asyncio.get_running_loop().run_in_executor(self._compiling, self._compile, grammar)

    def close(self) -> None:
        """Waits for the grammar that is being compiled. May be called twice."""
        self._compiling.shutdown()

    def _compile(self, grammar: str) -> None:
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        config.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=grammar)
        try:
            self._pipeline.generate([openvino.Tensor(np.array([[0]]))], [config])
        except RuntimeError as error:
            raise ValueError(f"grammar: {_reason(error)}") from None
        self._known.add(grammar)


def _write_first_layer(model: Path, out: Path) -> None:
    """Copies a GGUF file so that OpenVINO reads one layer. Raises ValueError for a file that does not count layers."""
    key = f"{gguf_header.read(model)['general.architecture']}.block_count".encode()
    stored = struct.pack("<Q", len(key)) + key + struct.pack("<I", _NUMBER)
    shutil.copyfile(model, out)
    with out.open("r+b") as file:
        at = file.read(len(stored) + 1 << 20).find(stored)
        if at < 0:
            raise ValueError(f"{model.name} has no {key.decode()}")
        file.seek(at + len(stored))
        file.write(struct.pack("<I", 1))


def _depth(grammar: str) -> int:
    """Returns how many brackets of a grammar stand within each other, at most."""
    return max(accumulate((each == "(") - (each == ")") for each in grammar), default=0)


def _reason(error: RuntimeError) -> str:
    """Returns the last line of OpenVINO's message, without the place in its source."""
    return str(error).strip().splitlines()[-1].rpartition(": EBNF ")[2]
