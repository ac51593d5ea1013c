"""v1.Generator over any engine: checks requests, counts, and turns values into messages and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict

import grpc
import structlog

from common import metrics
from contracts.v1 import generator_pb2 as pb
from contracts.v1 import generator_pb2_grpc
from search_agent.errors import Failure, GeneratorError
from search_agent.types import FinishReason, Message, Sampling
from services.generator.engine import Engine, EngineInfo, Piece, Request
from services.generator.remembered import Loaded, Remembered

log = structlog.get_logger()

_ROLES = ("system", "user", "assistant")
_MAX_STOPS = 16
_FINISH = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.STOP,
    FinishReason.LENGTH: pb.LENGTH,
}


def _invalid(field: str, message: str) -> GeneratorError:
    return GeneratorError(Failure.INVALID, message, field)


def parse(request: pb.GenerateRequest, max_tokens: int) -> Request:
    """The checked request. Raises GeneratorError that names the first field at fault."""
    if request.messages and request.prompt:
        raise _invalid("prompt", "give messages or a prompt, not both")
    if not request.messages and not request.prompt:
        raise _invalid("messages", "give messages or a prompt")
    for number, message in enumerate(request.messages):
        if message.role not in _ROLES:
            raise _invalid(f"messages[{number}].role", f"must be one of {', '.join(_ROLES)}")
    asked = request.sampling
    if not 1 <= asked.max_tokens <= max_tokens:
        raise _invalid("sampling.max_tokens", f"must be 1 to {max_tokens}")
    if not 0 <= asked.temperature <= 2:
        raise _invalid("sampling.temperature", "must be 0 to 2")
    top_p = asked.top_p if asked.HasField("top_p") else 1.0
    if not 0 < top_p <= 1:
        raise _invalid("sampling.top_p", "must be above 0 and at most 1")
    if len(asked.stop) > _MAX_STOPS:
        raise _invalid("sampling.stop", f"at most {_MAX_STOPS} strings")
    if not all(asked.stop):
        raise _invalid("sampling.stop", "an empty string would end every text at once")
    return Request(
        sampling=Sampling(
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=top_p,
            seed=asked.seed if asked.HasField("seed") else None,
            stop=tuple(asked.stop),
            grammar=asked.grammar,
        ),
        messages=tuple(Message(message.role, message.content) for message in request.messages),
        prompt=request.prompt,
    )


def _response(piece: Piece, text: str) -> pb.GenerateResponse:
    response = pb.GenerateResponse(
        text=text, finish_reason=_FINISH[piece.finish_reason], stop=piece.stop, model=piece.model
    )
    if piece.finish_reason:
        response.usage.prompt_tokens = piece.prompt_tokens
        response.usage.completion_tokens = piece.completion_tokens
    return response


def _describe(info: EngineInfo) -> pb.ModelInfoResponse:
    return pb.ModelInfoResponse(
        model=info.model,
        engine=info.engine,
        context_tokens=info.context_tokens,
        grammar=info.grammar,
        path=info.path,
        adapter=info.adapter,
    )


class GeneratorService(generator_pb2_grpc.GeneratorServicer):
    """One engine behind the contract. Requests may ask for at most `max_tokens` tokens."""

    def __init__(self, engine: Engine, max_tokens: int, remembered: Remembered) -> None:
        self._engine = engine
        self._max_tokens = max_tokens
        self._remembered = remembered

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.GenerateResponse:
        texts = []
        async for piece in self._pieces(request):
            texts.append(piece.text)
        return _response(piece, "".join(texts))

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateResponse]:
        async with aclosing(self._pieces(request)) as pieces:
            async for piece in pieces:
                yield _response(piece, piece.text)

    async def ModelInfo(self, request: pb.ModelInfoRequest, context: grpc.aio.ServicerContext) -> pb.ModelInfoResponse:
        return _describe(await self._engine.info())

    async def LoadModel(self, request: pb.LoadModelRequest, context: grpc.aio.ServicerContext) -> pb.ModelInfoResponse:
        info = await self._engine.load(request.path, request.adapter)
        self._remembered.write(Loaded(info.path, info.adapter))
        self._publish(info)
        return _describe(info)

    async def begin(self) -> None:
        """Loads what was loaded before a restart, and shows the model in the metrics. Raises GeneratorError."""
        if loaded := self._remembered.read():
            try:
                await self._engine.load(loaded.path, loaded.adapter)
            except GeneratorError as error:  # its files may be gone; serving what is configured is better than nothing
                log.error("what was loaded before cannot be loaded again", **asdict(loaded), error=str(error))
        self._publish(await self._engine.info())

    def _publish(self, info: EngineInfo) -> None:
        metrics.GENERATOR_MODEL.clear()
        metrics.GENERATOR_MODEL.labels(info.model, info.engine).set(1)

    async def _pieces(self, message: pb.GenerateRequest) -> AsyncGenerator[Piece, None]:
        """The engine's pieces, counted; leaving early, also by cancellation, stops the engine's work."""
        request = parse(message, self._max_tokens)
        started, waiting, ended = time.perf_counter(), True, False
        try:
            async with aclosing(self._engine.stream(request)) as pieces:
                async for piece in pieces:
                    if waiting:
                        metrics.GENERATOR_FIRST_TOKEN_SECONDS.observe(time.perf_counter() - started)
                        waiting = False
                    if piece.finish_reason:
                        ended = True
                        metrics.GENERATOR_TOKENS.labels("prompt").inc(piece.prompt_tokens)
                        metrics.GENERATOR_TOKENS.labels("completion").inc(piece.completion_tokens)
                        metrics.GENERATOR_FINISHED.labels(piece.finish_reason).inc()
                    yield piece
        except (asyncio.CancelledError, GeneratorExit):
            if not ended:
                metrics.GENERATOR_FINISHED.labels("cancelled").inc()
            raise
        if not ended:
            raise GeneratorError(Failure.BROKEN, "the engine ended without a finish reason")
