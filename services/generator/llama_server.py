"""One llama.cpp process: starting it, the requests that it takes in turns, and what it answers over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from common.control_tokens import ControlTokens
from common.lines import EventStream
from search_agent.errors import Failure, GeneratorError
from search_agent.types import Message, Sampling
from services.generator import gguf_files
from services.generator.engine import Request
from services.generator.gguf_files import Weights
from services.generator.models import BASE, Models
from services.generator.settings import GeneratorSettings

LLAMA_PROCESS = str(Path(__file__).with_name("llama_process.py"))
_HEALTH_TIMEOUT_S = 2.0
_EXIT_TIMEOUT_S = 5.0


class Turns:
    """Lets requests into llama.cpp in the order in which they come, those of one adapter at a time.

    llama.cpp computes only requests of the same adapter together, and prefers the adapter of its first busy slot: where
    that one's requests keep coming, all others would wait for ever.
    """

    def __init__(self) -> None:
        self._adapter = ""  # of the requests inside
        self._inside = 0
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def turn(self, adapter: str) -> AsyncIterator[None]:
        """Waits for the adapter's turn, and holds it while the context is open."""
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((adapter, entered))
        self._admit()
        try:
            await entered
            yield
        finally:
            if entered.done() and not entered.cancelled():
                self._inside -= 1
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            adapter, entered = self._waiting[0]
            if entered.done():  # its caller has left
                self._waiting.popleft()
            elif not self._inside or adapter == self._adapter:
                self._waiting.popleft()
                self._adapter = adapter
                self._inside += 1
                entered.set_result(None)
            else:
                return


class Server:
    """One llama.cpp process and the requests in flight on it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        models: Models,
        base: Weights,
        adapters: Mapping[str, Weights],
        control: ControlTokens,
        url: str,
    ) -> None:
        """`adapters` are the names that have one, in the order in which llama.cpp numbers them."""
        self.process = process
        self.models = models
        plain = f"{Path(models.path).stem}@{base.version}"
        self.identities = {
            name: f"{plain}+{adapters[name].version}" if name in adapters else plain for name in models.names
        }
        self.adapters = adapters
        self._control = control
        self._turns = Turns()
        self.context_tokens = 0
        # A fresh connection for each request: llama.cpp closes idle ones, which would lose requests.
        self.http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(None, connect=5.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )

    @classmethod
    async def start(
        cls, models: Models, base: Weights, adapters: Mapping[str, Weights], settings: GeneratorSettings
    ) -> Server:
        """Starts llama.cpp with the models, whose files are `base` and `adapters`. Raises GeneratorError."""
        control = await asyncio.to_thread(gguf_files.control_tokens, base.file)
        options = {
            "model": str(base.file),
            "adapters": [str(adapter.file) for adapter in adapters.values()],
            "context_tokens": settings.context_tokens,
            "parallel": settings.parallel,
            "threads": settings.threads,
            "gpu_layers": settings.gpu_layers,
            "http_threads": settings.max_in_flight + 8,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            LLAMA_PROCESS,
            json.dumps(options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # ggml's OpenMP threads meet at a barrier every few microseconds. If they spin there for long, two models
            # that share cores slow each other down at least threefold; if they sleep at once, a lone model decodes at
            # half its speed. A short spin costs little in both cases.
            env={"GOMP_SPINCOUNT": "300", **os.environ},
        )
        assert process.stdout
        try:
            url = (await process.stdout.readline()).decode().strip()
        except asyncio.CancelledError:
            process.kill()
            raise
        if not url:
            await process.wait()
            files = ", ".join(filter(None, (models.path, *models.adapters.values())))
            raise GeneratorError(Failure.INVALID, f"llama.cpp cannot load {files}")
        server = cls(process, models, base, adapters, control, url)
        properties = (await server.http.get("/props")).json()
        server.context_tokens = properties["default_generation_settings"]["n_ctx"]
        return server

    def dead(self) -> bool:
        return self.process.returncode is not None

    @asynccontextmanager
    async def completion(self, request: Request) -> AsyncIterator[httpx.Response]:
        """Opens llama.cpp's answer to a request. Leaving the context closes the connection, which frees the slot."""
        body = _body(await self.prompt(request), request.sampling)
        if self.adapters:
            # Without any number llama.cpp would apply all of them.
            body["lora"] = [
                {"id": number, "scale": float(name == request.model)} for number, name in enumerate(self.adapters)
            ]
        async with (
            self._turns.turn(request.model if request.model in self.adapters else BASE),
            self.http.stream("POST", "/completion", json=body) as response,
        ):
            yield response

    async def prompt(self, request: Request) -> str | list[int]:
        """Returns the prompt, as token ids if they are known by then. Raises GeneratorError if it is too long."""
        prompt = request.prompt or await self._rendered(request.messages)
        if isinstance(prompt, str):
            # A token is at least a byte; the model's own beginning and end are two more.
            if len(prompt.encode()) + 2 <= request.room(self.context_tokens):
                return prompt
            prompt = await self._tokenize(prompt, add_special=True, parse_special=True)
        request.check(len(prompt), self.context_tokens)
        return prompt

    async def _rendered(self, messages: tuple[Message, ...]) -> str | list[int]:
        """Renders the messages with the model's chat template, into token ids if text could become control tokens."""
        guarded = self._control.guard(messages)
        if not guarded:
            return await self._render(messages)
        ids = await self._tokenize("", add_special=True)  # what begins every prompt of this model
        for part in guarded.parts(await self._render(guarded.messages)):
            ids += [part] if isinstance(part, int) else await self._tokenize(part)
        return ids

    async def _render(self, messages: tuple[Message, ...]) -> str:
        body = {"messages": [{"role": message.role, "content": message.content} for message in messages]}
        return str((await self._post("/apply-template", body))["prompt"])

    async def _tokenize(self, text: str, add_special: bool = False, parse_special: bool = False) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return list((await self._post("/tokenize", body))["tokens"])

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self.http.post(path, json=body)
        if response.status_code != 200:
            raise refusal(response.status_code, response.text, "messages")
        return dict(response.json())

    async def healthy(self) -> bool:
        try:
            return (await self.http.get("/health", timeout=_HEALTH_TIMEOUT_S)).status_code == 200
        except httpx.TransportError:
            return False

    async def close(self) -> None:
        await self.http.aclose()
        assert self.process.stdin
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), _EXIT_TIMEOUT_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _body(prompt: str | list[int], sampling: Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt": prompt,
        "n_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,  # llama.cpp would cut the distribution where the request did not ask for it
        "min_p": 0.0,
        "stop": list(sampling.stop),
        "stream": True,
        "cache_prompt": True,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.grammar:
        body["grammar"] = sampling.grammar
    return body


def refusal(status: int, text: str, field: str) -> GeneratorError:
    """Returns llama.cpp's error as a GeneratorError."""
    try:
        error = json.loads(text)["error"]
        message, kind = str(error["message"]), error.get("type")
    except (ValueError, LookupError, TypeError):
        return GeneratorError(Failure.BROKEN, f"llama.cpp answered {status}")
    if kind == "exceed_context_size_error":
        return GeneratorError(Failure.TOO_LONG, message, field)
    if status == 400:
        return GeneratorError(Failure.INVALID, message, "sampling.grammar" if "grammar" in message.lower() else field)
    return GeneratorError(Failure.UNAVAILABLE if status == 503 else Failure.BROKEN, message)


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yields the data of the response's Server-Sent Events."""
    stream = EventStream()
    async for chunk in response.aiter_bytes():
        for _, data in stream.feed(chunk):
            yield json.loads(data)
