"""Serves a candidate while the gate asks it, beside the searcher that it may replace."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from common.addresses import free_port
from common.backends import GrpcPolicy
from search_agent.errors import Failure, SearcherError, TrainerError
from search_agent.types import ModelInfo
from search_agent.world import Searcher

_START_LIMIT_S = 300.0
_STOP_LIMIT_S = 15.0


@dataclass(frozen=True, slots=True)
class Files:
    """The arguments of LoadModel: a model (empty: the one that is served) and an adapter (empty: none)."""

    path: str
    adapter: str


class LoadableSearcher(Searcher, Protocol):
    """A searcher whose service can load models. Every method raises SearcherError."""

    async def load(self, path: str, adapter: str) -> ModelInfo: ...

    async def agree(self) -> bool:
        """Returns whether all services that hold the searcher have the same model."""
        ...


class Candidates(Protocol):
    """Serves files while the context is open, with the engine of `current` and, for an adapter, on its model.

    Raises BoundaryError.
    """

    def __call__(self, files: Files, current: ModelInfo) -> AbstractAsyncContextManager[LoadableSearcher]: ...


def own_process(timeout_s: float, patience_s: float = 0.0) -> Candidates:
    """Serves candidates from a generator service on a free port of this machine, which stops with the gate.

    Its engine is the searcher's; GENERATOR_… variables configure all else. vLLM needs a GPU, which the trainer does not
    have: candidates for vLLM need a service of their own. `timeout_s` is the deadline of a searcher's turn; one that is
    busy is asked again for up to `patience_s`.
    """

    @asynccontextmanager
    async def serve(files: Files, current: ModelInfo) -> AsyncIterator[LoadableSearcher]:
        if current.engine == "vllm":
            raise TrainerError(
                Failure.UNSUPPORTED,
                "the searcher's engine is vllm, which the trainer does not start; start another generator service "
                "with GENERATOR_ENGINE=vllm and the searcher's model, and set TRAINER_CANDIDATE to it",
            )
        model = files.path or current.path
        if not await asyncio.to_thread(os.path.isfile, model):
            raise TrainerError(
                Failure.UNSUPPORTED,
                f"the searcher's model {model!r} is not a file on the trainer's machine; start a generator service "
                "that serves candidates, and set TRAINER_CANDIDATE to it",
            )
        port = free_port()
        settings = {
            "GENERATOR_HOST": "127.0.0.1",
            "GENERATOR_PORT": str(port),
            "GENERATOR_METRICS_PORT": str(free_port()),
            "GENERATOR_ENGINE": current.engine,
            "GENERATOR_MODEL": model,
            "GENERATOR_ADAPTERS": json.dumps({"candidate": files.adapter}),
            "GENERATOR_STATE": "",  # the environment may hold the searcher's
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.generator", env=os.environ | settings
        )
        candidate = GrpcPolicy(f"127.0.0.1:{port}", timeout_s, patience_s)
        try:
            await _until_ready(candidate, process)
            yield candidate
        finally:
            await candidate.close()
            await _end(process)

    return serve


def at(target: str, timeout_s: float, patience_s: float = 0.0) -> Candidates:
    """Loads candidates into the model at `target` of a generator service, which nothing else asks."""

    @asynccontextmanager
    async def serve(files: Files, current: ModelInfo) -> AsyncIterator[LoadableSearcher]:
        candidate = GrpcPolicy(target, timeout_s, patience_s)
        try:
            engine = (await candidate.info()).engine
            if engine != current.engine:  # engines load different files, and their answers differ
                raise TrainerError(
                    Failure.UNSUPPORTED,
                    f"the engine of TRAINER_CANDIDATE is {engine} and the searcher's {current.engine}; "
                    "set its GENERATOR_ENGINE to the searcher's",
                )
            await candidate.load(files.path or current.path, files.adapter)
            yield candidate
        finally:
            await candidate.close()

    return serve


async def _until_ready(candidate: GrpcPolicy, process: asyncio.subprocess.Process) -> None:
    limit = time.monotonic() + _START_LIMIT_S
    while True:
        if process.returncode is not None:
            raise TrainerError(Failure.BROKEN, "the candidate cannot be served; the trainer's log has the details")
        try:
            await candidate.info()
            return
        except SearcherError as error:
            if time.monotonic() > limit:
                raise TrainerError(Failure.TIMEOUT, f"the candidate did not start in {_START_LIMIT_S:g} s") from error
        await asyncio.sleep(0.2)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_LIMIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
