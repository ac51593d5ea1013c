"""The OpenAI engine: a model behind an OpenAI-compatible endpoint that is not ours."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import openai

from search_agent.errors import Failure, GeneratorError
from search_agent.types import Completion, FinishReason, ModelInfo
from services.generator.control_tokens import neutralised
from services.generator.engine import Request
from services.generator.settings import GeneratorSettings

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


def _status_failure(status: int) -> Failure:
    if status == 429:
        return Failure.OVERLOADED
    if status in (408, 504):
        return Failure.TIMEOUT
    if status >= 500:
        return Failure.UNAVAILABLE
    if status in (400, 413, 422):
        return Failure.INVALID
    return Failure.BROKEN  # our address, key or model name is wrong: no fault of the request


class OpenAIEndpoint:
    """Streams from the endpoint that the settings name. The key appears in no error."""

    def __init__(self, settings: GeneratorSettings) -> None:
        key_file = settings.openai_api_key_file
        self._key = key_file.read_text().strip() if key_file else ""
        self._name = settings.openai_model
        self._model = f"{settings.openai_model}@remote"
        self._dialect = settings.openai_dialect
        self._client = openai.AsyncOpenAI(
            base_url=settings.openai_base_url,
            api_key=self._key or "none",  # the library insists on one, and would look in the environment
            max_retries=settings.openai_retries,
            timeout=settings.openai_timeout_s,
        )

    async def stream(self, request: Request) -> AsyncGenerator[Completion, None]:
        body = self._body(request)
        finish, stop, prompt_tokens, completion_tokens = None, "", 0, 0
        with self._failures(request):
            create = self._client.chat.completions if request.messages else self._client.completions
            async with await create.create(**body) as chunks:
                async for chunk in chunks:
                    if chunk.usage:
                        prompt_tokens = chunk.usage.prompt_tokens
                        completion_tokens = chunk.usage.completion_tokens
                    for choice in chunk.choices or ():
                        text = choice.delta.content if request.messages else choice.text
                        if text:
                            yield Completion(text, None, model=self._model)
                        if choice.finish_reason:
                            finish = choice.finish_reason
                            reason = getattr(choice, "stop_reason", None)  # vLLM tells; a token id is no string
                            stop = reason if isinstance(reason, str) else ""
        if finish not in _FINISH:
            raise GeneratorError(Failure.BROKEN, f"the endpoint ended with finish reason {finish or 'none'}")
        yield Completion("", _FINISH[finish], prompt_tokens, completion_tokens, stop, self._model)

    async def info(self) -> ModelInfo:
        return ModelInfo(self._model, "openai", 0, grammar=self._dialect != "plain")

    async def load(self, path: str, adapter: str) -> ModelInfo:
        raise GeneratorError(Failure.UNSUPPORTED, "the model of an OpenAI endpoint is not ours to change")

    async def close(self) -> None:
        await self._client.close()

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._name,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.messages:
            body["messages"] = [{"role": each.role, "content": neutralised(each.content)} for each in request.messages]
        else:
            body["prompt"] = request.prompt
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if extra := self._dialect_fields(request):
            body["extra_body"] = extra
        return body

    def _dialect_fields(self, request: Request) -> dict[str, Any]:
        """What the OpenAI API has no word for: a grammar, and continuing an assistant message."""
        extra: dict[str, Any] = {}
        grammar = request.sampling.grammar
        if grammar:
            if self._dialect == "plain":
                raise GeneratorError(Failure.UNSUPPORTED, "this endpoint takes no grammar", "sampling.grammar")
            if self._dialect == "vllm":
                extra["structured_outputs"] = {"grammar": grammar}
            else:
                extra["grammar"] = grammar
        if request.messages and request.messages[-1].role == "assistant":
            if self._dialect == "plain":
                raise GeneratorError(
                    Failure.UNSUPPORTED, "this endpoint cannot continue an assistant message", "messages"
                )
            if self._dialect == "vllm":
                extra |= {"continue_final_message": True, "add_generation_prompt": False}
        return extra

    @contextmanager
    def _failures(self, request: Request) -> Iterator[None]:
        """The library's exceptions as ours."""
        try:
            yield
        except openai.APITimeoutError:
            raise GeneratorError(Failure.TIMEOUT, "the endpoint did not answer in time") from None
        except openai.APIConnectionError:
            raise GeneratorError(Failure.UNAVAILABLE, "the endpoint cannot be reached") from None
        except openai.APIStatusError as error:
            failure = _status_failure(error.status_code)
            field = request.field if failure is Failure.INVALID else ""
            raise GeneratorError(failure, self._explain(error), field) from None
        except openai.APIError as error:
            message = f"the endpoint failed: {self._without_key(error.message)}"
            raise GeneratorError(Failure.BROKEN, message) from None
        except json.JSONDecodeError:
            raise GeneratorError(Failure.BROKEN, "the endpoint sent something that is not JSON") from None

    def _explain(self, error: openai.APIStatusError) -> str:
        if error.status_code in (401, 403):  # such answers like to repeat the key, whole or in part
            return f"the endpoint refused the API key ({error.status_code})"
        if error.status_code == 404:
            return f"the endpoint has no model {self._name}, or the base URL is wrong (404)"
        return f"the endpoint answered {error.status_code}: {self._without_key(error.message)[:500]}"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text
