"""v1.Generator's messages."""

from __future__ import annotations

import json
from collections.abc import Iterable

from common.codecs import fields_of, value_of
from contracts.v1 import generator_pb2 as pb
from search_agent.types import UNTAUGHT, Completion, FinishReason, Message, ModelCard, ModelInfo, Sampling

_FINISH = {FinishReason.STOP: pb.STOP, FinishReason.LENGTH: pb.LENGTH}
_FINISH_OF = {number: reason for reason, number in _FINISH.items()}


def generate_request(messages: Iterable[Message], sampling: Sampling, model: str = "") -> pb.GenerateRequest:
    return pb.GenerateRequest(
        messages=[pb.Message(role=message.role, content=message.content) for message in messages],
        sampling=pb.Sampling(**fields_of(sampling)),
        model=model,
    )


def messages_of(request: pb.GenerateRequest) -> tuple[Message, ...]:
    return tuple(Message(message.role, message.content) for message in request.messages)


def sampling_of(request: pb.GenerateRequest) -> Sampling:
    asked = request.sampling
    return value_of(
        Sampling,
        asked,
        top_p=asked.top_p if asked.HasField("top_p") else 1.0,
        seed=asked.seed if asked.HasField("seed") else None,
        stop=tuple(asked.stop),
    )


def generate_response(piece: Completion) -> pb.GenerateResponse:
    """A piece without a finish reason is followed by others, and carries no usage."""
    response = pb.GenerateResponse(text=piece.text, stop=piece.stop, model=piece.model)
    if piece.finish_reason:
        response.finish_reason = _FINISH[piece.finish_reason]
        response.usage.prompt_tokens = piece.prompt_tokens
        response.usage.completion_tokens = piece.completion_tokens
    return response


def completion_of(response: pb.GenerateResponse) -> Completion:
    return Completion(
        text=response.text,
        finish_reason=_FINISH_OF.get(response.finish_reason),
        prompt_tokens=response.usage.prompt_tokens,
        completion_tokens=response.usage.completion_tokens,
        stop=response.stop,
        model=response.model,
    )


def model_response(info: ModelInfo) -> pb.ModelInfoResponse:
    card = None
    if info.card != UNTAUGHT:
        card = pb.ModelCard(**fields_of(info.card, parameters=json.dumps(dict(info.card.parameters))))
    return pb.ModelInfoResponse(**fields_of(info, card=card))


def model_of(response: pb.ModelInfoResponse) -> ModelInfo:
    told = response.card
    card = value_of(
        ModelCard,
        told,
        parameters=json.loads(told.parameters or "{}"),
        data=tuple(told.data),
        figures=dict(told.figures),
    )
    return value_of(ModelInfo, response, card=card)
