"""The llama.cpp engine: a GGUF model, bare and with LoRA adapters, on our own CPU or GPU."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from common import tracing
from search_agent.errors import Failure, GeneratorError
from search_agent.types import Completion, FinishReason, ModelInfo
from services.generator import gguf_files
from services.generator.engine import Request
from services.generator.gguf_files import Weights
from services.generator.hot_swap import HotSwap
from services.generator.llama_server import Server, events, refusal
from services.generator.models import Models, absolute
from services.generator.settings import GeneratorSettings

_FINISH = {"eos": FinishReason.STOP, "word": FinishReason.STOP, "limit": FinishReason.LENGTH}


class LlamaCpp:
    """Serves models in one llama.cpp process; `load` starts another process that takes its place."""

    def __init__(self, settings: GeneratorSettings) -> None:
        self._settings = settings
        self._swap: HotSwap[Server] = HotSwap(self._start)
        self._watches: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, settings: GeneratorSettings) -> LlamaCpp:
        """Loads the models that the settings name. Raises GeneratorError."""
        engine = cls(settings)
        path = absolute(settings.model or str(gguf_files.embedded_model()))
        await engine._swap.begin(Models(path, {name: absolute(adapter) for name, adapter in settings.adapters.items()}))
        return engine

    @property
    def models(self) -> Models:
        return self._swap.now.models

    async def stream(self, request: Request) -> AsyncGenerator[Completion, None]:
        with self._swap.use() as server, _unreachable():
            self._check(server)
            model, began = server.identities[request.model], time.perf_counter()
            async with server.completion(request) as response:
                if response.status_code != 200:
                    text = (await response.aread()).decode(errors="replace")
                    raise refusal(response.status_code, text, request.field)
                async for event in events(response):
                    if "error" in event:
                        raise refusal(event["error"].get("code", 500), json.dumps(event), request.field)
                    if not event["stop"]:
                        if event["content"]:
                            yield Completion(event["content"], None, model=model)
                        continue
                    if event["stop_type"] not in _FINISH:
                        break
                    _stages(event, time.perf_counter() - began)
                    yield Completion(
                        text=event["content"],
                        model=model,
                        finish_reason=_FINISH[event["stop_type"]],
                        prompt_tokens=event["tokens_evaluated"],
                        completion_tokens=event["tokens_predicted"],
                        stop=event["stopping_word"],
                    )
                    return
        raise GeneratorError(Failure.BROKEN, "llama.cpp ended without a finish reason")

    async def info(self, name: str) -> ModelInfo:
        server = self._swap.now
        self._check(server)
        if not await server.healthy():
            raise GeneratorError(Failure.UNAVAILABLE, "llama.cpp does not answer")
        return self.described(name)

    def described(self, name: str) -> ModelInfo:
        server = self._swap.now
        return ModelInfo(
            server.identities[name],
            "llama.cpp",
            server.context_tokens,
            grammar=True,
            path=server.models.path,
            adapter=server.models.adapter(name),
        )

    async def load(self, name: str, path: str, adapter: str) -> ModelInfo:
        await self._swap.load(name, path, adapter)
        return self.described(name)

    @property
    def pid(self) -> int:
        """The llama.cpp process that takes new requests."""
        return self._swap.now.process.pid

    async def close(self) -> None:
        """Stops llama.cpp, and the requests in flight on it."""
        for watch in self._watches:
            watch.cancel()
        await self._swap.close()

    async def _start(self, models: Models, old: Server | None, changed: str) -> Server:
        """Starts a new process, also for another adapter. Those that do not change are not read again."""
        if old:
            models = replace(models, path=absolute(models.path) or old.models.path)
        try:
            # A copy is removed once llama.cpp has mapped it, so that a service that is killed leaves none behind.
            base = await asyncio.to_thread(gguf_files.base, Path(models.path))
            adapters: dict[str, Weights] = {}
            for name, source in models.adapters.items():
                if old and name != changed and name in old.adapters:
                    adapters[name] = old.adapters[name]
                elif source:
                    adapters[name] = await asyncio.to_thread(gguf_files.adapter, source, models.path)
            server = await Server.start(models, base, adapters, self._settings)
        except GeneratorError as error:
            # llama.cpp does not say which file it disliked; one that it serves already is not it.
            suspect = ("adapter" if old.models.path == models.path else "path") if old else ""
            field = error.field or suspect
            raise GeneratorError(error.failure, error.message, field) from error
        watch = asyncio.create_task(self._watch(server))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return server

    def _check(self, server: Server) -> None:
        if server.dead():
            self._swap.renew(server)
            raise GeneratorError(Failure.UNAVAILABLE, "llama.cpp died and is started again")

    async def _watch(self, server: Server) -> None:
        """Restarts the model at once if its process dies, which an odd grammar can cause."""
        await server.process.wait()
        self._swap.renew(server)


@contextmanager
def _unreachable() -> Iterator[None]:
    """Turns failures to reach llama.cpp into UNAVAILABLE."""
    try:
        yield
    except httpx.TransportError as error:
        raise GeneratorError(Failure.UNAVAILABLE, "llama.cpp does not answer") from error


def _stages(last: dict[str, Any], took_s: float) -> None:
    """Adds to the trace the times that a text waited, its prompt was read and it was written, as llama.cpp reports
    them.
    """
    span, timings = tracing.current(), last["timings"]
    read_s, wrote_s = timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3
    span.stages(queue=max(0.0, took_s - read_s - wrote_s), prompt=read_s, decode=wrote_s)
    span.set({"gen_ai.usage.cache_read.input_tokens": timings["cache_n"]})
