"""v1.Generator over any engine: checks requests, counts, and turns values into messages and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import grpc
import structlog

from common import metrics, tracing
from common.codecs import generator as codec
from common.pushed import Bell, told
from contracts.v1 import generator_pb2 as pb
from contracts.v1 import generator_pb2_grpc
from search_agent import types
from search_agent.errors import Failure, GeneratorError
from search_agent.types import UNTAUGHT, Completion, ModelCard
from services.generator.allowed import Allowed
from services.generator.engine import Engine, Request, invalid
from services.generator.models import Models
from services.generator.remembered import Remembered
from services.generator.taught import card_of, warn

log = structlog.get_logger()

_ROLES = ("system", "user", "assistant")
_MAX_STOPS = 16
_NOTHING = Allowed()


def parse(request: pb.GenerateRequest, max_tokens: int, models: Models) -> Request:
    """Checks a request. Raises GeneratorError that names the first field at fault."""
    model = models.name(request.model)
    if request.messages and request.prompt:
        raise invalid("prompt", "give messages or a prompt, not both")
    if not request.messages and not request.prompt:
        raise invalid("messages", "give messages or a prompt")
    for number, message in enumerate(request.messages):
        if message.role not in _ROLES:
            raise invalid(f"messages[{number}].role", f"must be one of {', '.join(_ROLES)}")
    sampling = codec.sampling_of(request)
    if not 1 <= sampling.max_tokens <= max_tokens:
        raise invalid("sampling.max_tokens", f"must be 1 to {max_tokens}")
    if not 0 <= sampling.temperature <= 2:
        raise invalid("sampling.temperature", "must be 0 to 2")
    if not 0 < sampling.top_p <= 1:
        raise invalid("sampling.top_p", "must be above 0 and at most 1")
    if len(sampling.stop) > _MAX_STOPS:
        raise invalid("sampling.stop", f"at most {_MAX_STOPS} strings")
    if not all(sampling.stop):
        raise invalid("sampling.stop", "an empty string would end every text at once")
    return Request(sampling, codec.messages_of(request), request.prompt, model)


class GeneratorService(generator_pb2_grpc.GeneratorServicer):
    """Serves one engine's models over gRPC.

    Requests may ask for at most `max_tokens` tokens, and load what is allowed.
    """

    def __init__(self, engine: Engine, max_tokens: int, remembered: Remembered, allowed: Allowed = _NOTHING) -> None:
        self._engine = engine
        self._max_tokens = max_tokens
        self._remembered, self._allowed = remembered, allowed
        self._configured_path = engine.models.path
        self._configured_adapters = tuple(engine.models.adapters.values())
        self.changed = Bell()  # rings once a model has been loaded
        self._taught: dict[str, tuple[str, ModelCard]] = {}  # by name, the model whose card was read last, and its card

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.GenerateResponse:
        texts = []
        async for piece in self._pieces(request):
            texts.append(piece.text)
        return codec.generate_response(replace(piece, text="".join(texts)))

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateResponse]:
        async with aclosing(self._pieces(request)) as pieces:
            async for piece in pieces:
                yield codec.generate_response(piece)

    async def ModelInfo(self, request: pb.ModelInfoRequest, context: grpc.aio.ServicerContext) -> pb.ModelInfoResponse:
        return codec.model_response(await self._info(request.model))

    async def WatchModel(
        self, request: pb.ModelInfoRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ModelInfoResponse]:
        async with aclosing(told(partial(self._info, request.model), self.changed)) as news:
            async for info in news:
                yield codec.model_response(info)

    async def LoadModel(self, request: pb.LoadModelRequest, context: grpc.aio.ServicerContext) -> pb.ModelInfoResponse:
        models = self._engine.models
        name = models.name(request.model)
        if not request.path and not request.adapter:  # an unreadable message looks like this too
            raise invalid("path", "name the base model to load it without an adapter")
        self._allowed.check("path", request.path, (models.path, self._configured_path))
        self._allowed.check("adapter", request.adapter, (*models.adapters.values(), *self._configured_adapters))
        loading = self._replace(name, request.path, request.adapter)
        # The engine completes a load even if the caller leaves, so it must be remembered and shown then too.
        return codec.model_response(await asyncio.shield(asyncio.ensure_future(loading)))

    async def begin(self) -> None:
        """Loads what was loaded before a restart, and publishes the models. Raises GeneratorError."""
        before = self._remembered.read() or self._engine.models
        for name, adapter in before.adapters.items():
            now = self._engine.models
            if (before.path or now.path, adapter) == (now.path, now.adapter(name)):
                continue
            try:
                await self._load(name, before.path, adapter)
            except GeneratorError as error:  # its files may be gone; serving what is configured is better than nothing
                loaded = {"path": before.path, "adapter": adapter}
                log.error("what was loaded before cannot be loaded again", name=name, **loaded, error=str(error))
        self._publish()

    async def _info(self, model: str) -> types.ModelInfo:
        name = self._engine.models.name(model)
        return self._with_card(name, await self._engine.info(name))

    async def _replace(self, name: str, path: str, adapter: str) -> types.ModelInfo:
        info = await self._load(name, path, adapter)
        served = self._engine.models
        # The configured model may be elsewhere at the next start: the hub keeps each version in a folder of its own.
        path = "" if served.path == self._configured_path else served.path
        self._remembered.write(replace(served, path=path))
        self._publish()
        return info

    async def _load(self, name: str, path: str, adapter: str) -> types.ModelInfo:
        card_of(path, adapter)  # refuses a card before anything changes
        info = await self._engine.load(name, path, adapter)
        self._taught.pop(name, None)
        return self._with_card(name, info)

    def _with_card(self, name: str, info: types.ModelInfo) -> types.ModelInfo:
        """Adds the model's card, which is read, and warned of, once per model; and whether other names share it."""
        info = replace(info, shared=bool(self._engine.models.others(name)))
        model, card = self._taught.get(name, ("", UNTAUGHT))
        if model == info.model:
            return replace(info, card=card)
        info = replace(info, card=card_of(info.path, info.adapter))
        self._taught[name] = info.model, info.card
        warn(info)
        return info

    def _publish(self) -> None:
        engine = self._engine
        infos = {name: self._with_card(name, engine.described(name)) for name in engine.models.names}
        metrics.GENERATOR_MODEL.clear()
        for name, info in infos.items():
            metrics.GENERATOR_MODEL.labels(name, info.model, info.engine).set(1)
        self.changed.ring()

    async def _pieces(self, message: pb.GenerateRequest) -> AsyncGenerator[Completion, None]:
        """Yields and counts the engine's pieces. Leaving early, also by cancellation, stops the engine's work."""
        request = parse(message, self._max_tokens, self._engine.models)
        name = request.model
        started, waiting, ended = time.perf_counter(), True, False
        with tracing.span(f"engine {name}", _asked_for(request)) as span:
            try:
                async with aclosing(self._engine.stream(request)) as pieces:
                    async for piece in pieces:
                        if waiting:
                            first = time.perf_counter() - started
                            metrics.GENERATOR_FIRST_TOKEN_SECONDS.labels(name).observe(first, tracing.exemplar())
                            span.set({"gen_ai.response.time_to_first_chunk": first})
                            waiting = False
                        if piece.finish_reason:
                            ended = True
                            metrics.GENERATOR_TOKENS.labels(name, "prompt").inc(piece.prompt_tokens)
                            metrics.GENERATOR_TOKENS.labels(name, "completion").inc(piece.completion_tokens)
                            metrics.GENERATOR_FINISHED.labels(name, piece.finish_reason).inc()
                            span.set(_used(piece))
                        yield piece
            except (asyncio.CancelledError, GeneratorExit):
                if not ended:
                    metrics.GENERATOR_FINISHED.labels(name, "cancelled").inc()
                raise
            if not ended:
                raise GeneratorError(Failure.BROKEN, "the engine ended without a finish reason")


def _asked_for(request: Request) -> tracing.Attributes:
    """Returns a span's attributes for a text that is to be written."""
    return {"gen_ai.request.model": request.model, "gen_ai.request.max_tokens": request.sampling.max_tokens}


def _used(last: Completion) -> tracing.Attributes:
    """Returns a span's attributes for a finished text."""
    return {
        "gen_ai.response.model": last.model,
        "gen_ai.response.finish_reasons": [str(last.finish_reason)],
        "gen_ai.usage.input_tokens": last.prompt_tokens,
        "gen_ai.usage.output_tokens": last.completion_tokens,
    }
