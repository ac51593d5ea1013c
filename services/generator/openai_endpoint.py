"""The OpenAI engine: models behind somebody else's OpenAI-compatible endpoint."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

import openai
from httpx import ProxyError

from common.control_tokens import neutralised
from common.http import client, through
from common.openai_endpoint import Dialect
from search_agent.errors import Failure, GeneratorError
from search_agent.tags import Thoughts
from search_agent.types import Completion, FinishReason, ModelInfo
from services.generator.engine import Request
from services.generator.models import Models
from services.generator.settings import GeneratorSettings

THINKING_TOKENS = 4096  # a model that has been seen to think may think for so long, unless the settings say otherwise
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


def _too_long(error: openai.APIStatusError) -> bool:
    """Returns whether the endpoint says, in OpenAI's, vLLM's, llama.cpp's or similar words, that the prompt is too
    long.
    """
    said = f"{error.code} {error.response.text}".lower()
    signs = ("context_length_exceeded", "exceed_context_size", "context length", "context size", "context window")
    return error.status_code in (400, 413, 422) and any(sign in said for sign in signs)


class _AskAgain(Exception):
    """The failed request revealed something about the endpoint that the next one takes into account."""


class _Remote:
    """A model of the endpoint, and what requests have revealed about it."""

    def __init__(self, name: str, thinking_tokens: int | None) -> None:
        self.name = name
        self.identity = f"{name}@remote"
        self.accepted = Dialect()
        self.thinking_tokens = thinking_tokens


class OpenAIEndpoint:
    """Streams from the endpoint that the settings name. The key appears in no error.

    The first requests reveal which parameters a model refuses, and whether it thinks before it answers. Thinking inside
    the text is passed on as it came, but a request that yields nothing else is repeated.
    """

    def __init__(self, settings: GeneratorSettings) -> None:
        """Raises GeneratorError for a proxy that cannot be used."""
        self._key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else ""
        self.models = Models("", settings.adapters)
        self._remotes = {
            name: _Remote(self.models.adapter(name) or settings.openai_model, settings.openai_thinking_tokens)
            for name in self.models.names
        }
        self._url = settings.openai_base_url
        self._dialect = settings.openai_dialect
        try:
            self._client = openai.AsyncOpenAI(
                base_url=self._url,
                api_key=self._key or "none",  # the library requires one, and would look in the environment
                max_retries=settings.openai_retries,
                timeout=settings.openai_timeout_s,
                http_client=client(openai.DefaultAsyncHttpxClient, self._url),
            )
        except ProxyError as error:
            raise GeneratorError(Failure.INVALID, str(error)) from error

    async def stream(self, request: Request) -> AsyncGenerator[Completion, None]:
        remote = self._remotes[request.model]
        spent = Completion("")  # used by attempts that failed
        while True:
            attempt = _Attempt(remote.thinking_tokens or 0, _is_protocol(request))
            try:
                async with aclosing(self._attempt(request, remote, attempt)) as pieces:
                    async for piece in pieces:
                        yield _plus(piece, spent) if piece.finish_reason else piece
                return
            except _AskAgain:
                spent = _plus(attempt.usage, spent)

    async def _attempt(self, request: Request, remote: _Remote, attempt: _Attempt) -> AsyncGenerator[Completion, None]:
        """Raises _AskAgain before it has yielded anything, or not at all."""
        body = remote.accepted.fit(self._body(request, remote.name, attempt.thinking_tokens))
        finish, stop = None, ""
        with self._failures(request, remote):
            create = self._client.chat.completions if request.messages else self._client.completions
            try:
                response = await create.create(**body)
            except openai.APIStatusError as error:
                if remote.accepted.learn(error.status_code, error.response.text, body):
                    raise _AskAgain from None
                raise
            async with response as chunks:
                async for chunk in chunks:
                    if chunk.usage:
                        attempt.count(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                    for choice in chunk.choices or ():
                        if text := attempt.take(*_said(choice)):
                            yield Completion(text, None, model=remote.identity)
                        if choice.finish_reason:
                            finish = choice.finish_reason
                            reason = getattr(choice, "stop_reason", None)  # vLLM tells; a token id is no string
                            stop = reason if isinstance(reason, str) else ""
        if finish not in _FINISH:
            raise GeneratorError(Failure.BROKEN, f"the endpoint ended with finish reason {finish or 'none'}")
        if attempt.only_thought:
            if finish == "length" and not attempt.thinking_tokens and remote.thinking_tokens != 0:
                remote.thinking_tokens = THINKING_TOKENS
                raise _AskAgain
            raise GeneratorError(
                Failure.BROKEN,
                f"the endpoint thought and did not answer in {request.sampling.max_tokens + attempt.thinking_tokens} "
                "tokens; GENERATOR_OPENAI_THINKING_TOKENS gives it more",
            )
        usage = attempt.usage
        yield replace(usage, text=attempt.rest(), finish_reason=_FINISH[finish], stop=stop, model=remote.identity)

    async def info(self, name: str) -> ModelInfo:
        return self.described(name)

    def described(self, name: str) -> ModelInfo:
        return ModelInfo(self._remotes[name].identity, "openai", 0, grammar=self._dialect != "plain")

    async def load(self, name: str, path: str, adapter: str) -> ModelInfo:
        raise GeneratorError(Failure.UNSUPPORTED, "the model of an OpenAI endpoint is not ours to change")

    async def close(self) -> None:
        await self._client.close()

    def _body(self, request: Request, model: str, thinking_tokens: int) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": sampling.max_tokens + thinking_tokens,
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
        """Returns the fields that the OpenAI API lacks: a grammar, and continuing an assistant message."""
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
    def _failures(self, request: Request, remote: _Remote) -> Iterator[None]:
        """Turns the library's exceptions into GeneratorError."""
        try:
            yield
        except openai.APITimeoutError:
            raise GeneratorError(Failure.TIMEOUT, "the endpoint did not answer in time") from None
        except openai.APIConnectionError:
            message = "the endpoint cannot be reached" + " through its proxy" * bool(through(self._url))
            raise GeneratorError(Failure.UNAVAILABLE, message) from None
        except openai.APIStatusError as error:
            failure = Failure.TOO_LONG if _too_long(error) else _status_failure(error.status_code)
            field = request.field if failure in (Failure.INVALID, Failure.TOO_LONG) else ""
            raise GeneratorError(failure, self._explain(error, remote.name), field) from None
        except openai.APIError as error:
            message = f"the endpoint failed: {self._without_key(error.message)}"
            raise GeneratorError(Failure.BROKEN, message) from None
        except json.JSONDecodeError:
            raise GeneratorError(Failure.BROKEN, "the endpoint sent something that is not JSON") from None

    def _explain(self, error: openai.APIStatusError, model: str) -> str:
        if error.status_code in (401, 403):  # such answers often repeat the key, whole or in part
            return f"the endpoint refused the API key ({error.status_code})"
        if error.status_code == 404:
            return f"the endpoint has no model {model}, or the base URL is wrong (404)"
        return f"the endpoint answered {error.status_code}: {self._without_key(error.message)[:500]}"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _Attempt:
    """One answer as it arrives, with its usage. Text is held back while it is only thinking."""

    def __init__(self, thinking_tokens: int, is_protocol: bool) -> None:
        self.thinking_tokens = thinking_tokens
        self.usage = Completion("")
        self._is_protocol = is_protocol
        self._thoughts = Thoughts()
        self._held: list[str] = []
        self._thought = self._answered = False

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.usage = replace(self.usage, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)

    def take(self, text: str, thinking: str) -> str:
        """Returns the text that can be passed on by now, without thinking that has its own field."""
        self._thought |= bool(thinking)
        self._held.append(text)
        self._answered |= bool(self._thoughts.feed(text))
        return self.rest() if self._answered or self._is_protocol else ""

    def rest(self) -> str:
        text = "".join(self._held)
        self._held.clear()
        return text

    @property
    def only_thought(self) -> bool:
        return not self._answered and not self._is_protocol and (self._thought or self._thoughts.going_on)


def _is_protocol(request: Request) -> bool:
    """Returns whether the request asks for a searcher's move, in which thinking belongs to the method."""
    return bool(request.sampling.stop or request.sampling.grammar)


def _said(choice: Any) -> tuple[str, str]:
    """Returns a chunk's text and thinking, for which endpoints use two names."""
    delta = getattr(choice, "delta", None)
    if delta is None:
        return _valid(choice.text or ""), ""
    thinking = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
    return _valid(delta.content or ""), str(thinking or "")


def _valid(text: str) -> str:
    """Returns the text without lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plus(piece: Completion, spent: Completion) -> Completion:
    return replace(
        piece,
        prompt_tokens=piece.prompt_tokens + spent.prompt_tokens,
        completion_tokens=piece.completion_tokens + spent.completion_tokens,
    )
