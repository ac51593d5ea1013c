"""The vLLM engine: a model folder or hub id, with or without a LoRA adapter, on GPUs of this machine."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from search_agent.errors import Failure, GeneratorError
from search_agent.types import FinishReason, Sampling
from services.generator.engine import EngineInfo, Piece, Request
from services.generator.settings import GeneratorSettings
from services.generator.vllm_model import Dead, Delta, VllmModel, first_line, one_line

log = structlog.get_logger()

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_ALIVE_S = 1.0  # between two looks whether a call's model still lives
_FAIL_S = 30.0  # a dead model's requests fail on their own; this long is waited for them


class Model(Protocol):
    """One loaded model."""

    def tokens(self, request: Request) -> list[int]:
        """The prompt. Raises ValueError for messages that the model has no template for. May be slow."""
        ...

    def generate(self, prompt: list[int], sampling: Sampling, adapter: int) -> AsyncGenerator[Delta, None]:
        """`adapter` is the number of one that was added, or 0.

        Raises ValueError for what it refuses, RuntimeError for what fails, and Dead.
        """
        ...

    async def add(self, adapter: int, path: str) -> None:
        """Raises ValueError for an adapter that cannot be loaded, and Dead. May never end if the model dies."""
        ...

    async def remove(self, adapter: int) -> None: ...

    def dead(self) -> bool: ...

    def close(self) -> None:
        """May be slow."""
        ...


@dataclass(slots=True, eq=False)
class _Serving:
    """A model with an adapter (0: none), and the requests under way on them. `base` names the model alone."""

    model: Model
    path: str
    adapter_path: str
    adapter: int
    base: str
    name: str
    under_way: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def __enter__(self) -> None:
        self.under_way += 1
        self.idle.clear()

    def __exit__(self, *_: object) -> None:
        self.under_way -= 1
        if not self.under_way:
            self.idle.set()


class VllmEngine:
    """Serves one model with one adapter at a time; `load` puts others in their place.

    Another adapter goes into the running model, in a moment. Another model is started beside the old one, which
    ends when its requests have, so that both need room on the GPUs for a while.
    """

    def __init__(self, settings: GeneratorSettings, launch: Callable[[str], Model]) -> None:
        """`launch` starts the model in a folder, which may take minutes. Raises ValueError."""
        self._settings = settings
        self._launch = launch
        self._serving: _Serving
        self._old: list[_Serving] = []  # those that requests may still be under way on
        self._restart: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._loading = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        # A fast tokenizer is not for two threads at once; the event loop is not for long prompts.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokens")

    @classmethod
    async def start(cls, settings: GeneratorSettings, launch: Callable[[str], Model] | None = None) -> VllmEngine:
        """Loads the model that the settings name. Raises GeneratorError."""
        engine = cls(settings, launch or (lambda folder: VllmModel(folder, settings)))
        engine._serving = await engine._start(
            settings.model, str(settings.adapter.absolute()) if settings.adapter else ""
        )
        return engine

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        serving = self._serving
        with serving:
            try:
                loop = asyncio.get_running_loop()
                prompt = await loop.run_in_executor(self._tokenizing, serving.model.tokens, request)
            except ValueError as error:
                raise GeneratorError(Failure.INVALID, first_line(error), request.field) from None
            room = self._settings.context_tokens
            if len(prompt) + request.sampling.max_tokens > room:
                counts = f"{len(prompt)} tokens and {request.sampling.max_tokens} more do not fit the context of {room}"
                raise GeneratorError(Failure.INVALID, counts, request.field)
            written = 0
            try:
                async with aclosing(serving.model.generate(prompt, request.sampling, serving.adapter)) as deltas:
                    async for delta in deltas:
                        written += delta.tokens
                        if not delta.finish:
                            yield Piece(delta.text, serving.name)
                        elif delta.finish in _FINISH:
                            reason = _FINISH[delta.finish]
                            yield Piece(delta.text, serving.name, reason, len(prompt), written, delta.stop)
                        else:
                            raise GeneratorError(Failure.BROKEN, f"vLLM ended with finish reason {delta.finish}")
            except ValueError as error:
                field = "sampling.grammar" if "grammar" in str(error).lower() else request.field
                raise GeneratorError(Failure.INVALID, first_line(error), field) from None
            except RuntimeError as error:
                raise GeneratorError(Failure.BROKEN, f"vLLM failed: {first_line(error)}") from None
            except Dead:
                self._lost(serving)
                raise GeneratorError(Failure.UNAVAILABLE, "vLLM died and is started again") from None

    async def info(self) -> EngineInfo:
        serving = self._serving
        if serving.model.dead():
            self._lost(serving)
            raise GeneratorError(Failure.UNAVAILABLE, "vLLM died and is started again")
        room = self._settings.context_tokens
        return EngineInfo(serving.name, "vllm", room, grammar=True, path=serving.path, adapter=serving.adapter_path)

    async def load(self, path: str, adapter: str) -> EngineInfo:
        """As Engine.load; a load whose caller goes away is still completed."""
        await asyncio.shield(self._spawn(self._swap(path, adapter)))
        return await self.info()

    async def close(self) -> None:
        """Stops vLLM and whatever was still under way on it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for model in {self._serving.model, *(old.model for old in self._old)}:
            await asyncio.to_thread(model.close)
        self._tokenizing.shutdown()

    async def _start(self, path: str, adapter: str) -> _Serving:
        """A model of its own, with the adapter."""
        folder = await asyncio.to_thread(_folder, path)
        base = await asyncio.to_thread(_identity, folder)
        name = await asyncio.to_thread(_with_adapter, base, adapter)
        try:
            model = await asyncio.to_thread(self._launch, folder)
        except Exception as error:  # of whatever kind: a wrong argument is a TypeError, a missing vLLM an ImportError
            raise GeneratorError(Failure.INVALID, f"vLLM does not start: {one_line(error)}", "path") from error
        try:
            return _Serving(model, folder, adapter, await self._add(model, adapter), base, name)
        except BaseException:
            await asyncio.to_thread(model.close)
            raise

    async def _add(self, model: Model, adapter: str) -> int:
        """The adapter's number in the model, 0 where there is none."""
        if not adapter:
            return 0
        number = next(self._numbers)
        try:
            await _answer(model, model.add(number, adapter))
        except ValueError as error:
            raise GeneratorError(
                Failure.INVALID, f"vLLM does not take {adapter}: {first_line(error)}", "adapter"
            ) from error
        except Dead:
            raise GeneratorError(Failure.UNAVAILABLE, f"vLLM died when it was to take {adapter}") from None
        return number

    async def _swap(self, path: str, adapter: str, dead: _Serving | None = None) -> None:
        """Serves the model in `path` (empty: the present one) with `adapter`; in place of `dead`, if that is given."""
        async with self._loading:
            old = self._serving
            if dead and dead is not old:
                return  # another request has seen it as well
            folder = await asyncio.to_thread(_folder, path) if path else old.path
            if old.model.dead():
                await self._bury(old)
                new = await self._start(folder, adapter)
            # The weights in memory are those that were read then. Hashing them takes long, and a folder may be
            # written anew, so they are looked at only where somebody names the folder.
            elif not path or (folder == old.path and await asyncio.to_thread(_identity, folder) == old.base):
                name = await asyncio.to_thread(_with_adapter, old.base, adapter)
                number = await self._add(old.model, adapter)
                new = _Serving(old.model, folder, adapter, number, old.base, name)
            else:
                new = await self._start(folder, adapter)
            self._serving = new
            self._old.append(old)
            self._spawn(self._retire(old))
            log.info("model loaded", model=new.name, before=old.name)

    async def _retire(self, old: _Serving) -> None:
        """Frees what a model or adapter took, once no request is under way on it."""
        await old.idle.wait()
        self._old.remove(old)
        if old.model is self._serving.model:
            if old.adapter:
                await _answer(old.model, old.model.remove(old.adapter))
        elif all(other.model is not old.model for other in self._old):  # it may have had another adapter before
            await asyncio.to_thread(old.model.close)

    async def _bury(self, dead: _Serving) -> None:
        """Closes a dead model before its successor starts: processes of its that are left hold the GPUs' memory."""
        with suppress(TimeoutError):
            await asyncio.wait_for(dead.idle.wait(), _FAIL_S)
        await asyncio.to_thread(dead.model.close)

    def _lost(self, serving: _Serving) -> None:
        """Starts the served model again, once. If that fails, the next who finds it dead tries again."""
        if serving is self._serving and (self._restart is None or self._restart.done()):
            log.error("vLLM died", model=serving.name)
            self._restart = self._spawn(self._swap(serving.path, serving.adapter_path, dead=serving))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("vLLM is not as asked", error=one_line(error))


async def _answer(model: Model, call: Coroutine[Any, Any, None]) -> None:
    """Waits for the call. Raises Dead where the model dies first, since vLLM then leaves calls unanswered."""
    calling = asyncio.ensure_future(call)
    try:
        while not (await asyncio.wait([calling], timeout=_ALIVE_S))[0]:
            if model.dead():
                raise Dead
        calling.result()
    finally:
        calling.cancel()


def _folder(path: str) -> str:
    """The folder of a model, which a hub id is downloaded to. Raises GeneratorError."""
    if Path(path).is_dir():
        return str(Path(path).absolute())
    if path.startswith(("/", ".")):
        raise GeneratorError(Failure.NOT_FOUND, f"no folder {path}", "path")
    import huggingface_hub

    try:
        return huggingface_hub.snapshot_download(path, ignore_patterns=["*.pth", "*.gguf", "original/*"])
    except (OSError, ValueError) as error:  # the hub's own errors are of these
        raise GeneratorError(
            Failure.NOT_FOUND, f"no folder {path}, and no model of the hub: {first_line(error)}", "path"
        ) from None


def _identity(folder: str) -> str:
    """ "name@version" of the model in the folder; the version tells it apart by its bytes. Raises GeneratorError."""
    path = Path(folder)
    # The hub keeps a model in models--OWNER--NAME/snapshots/COMMIT.
    name = path.parent.parent.name.rpartition("--")[2] if path.parent.name == "snapshots" else path.name
    return f"{name}@{_digest(folder, '*.safetensors', 'path')}"


def _with_adapter(base: str, adapter: str) -> str:
    """The model's identity with an adapter (empty: none) on top. Raises GeneratorError."""
    return f"{base}+{_digest(adapter, 'adapter_model.safetensors', 'adapter')}" if adapter else base


def _digest(folder: str, pattern: str, field: str) -> str:
    """12 hex digits that stand for the bytes of a folder's weights."""
    files = sorted(Path(folder).glob(pattern))
    if not files:
        raise GeneratorError(Failure.NOT_FOUND, f"no {pattern} in {folder}", field)
    whole = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise GeneratorError(Failure.INVALID, f"cannot read {path}: {error.strerror}", field) from error
    return whole.hexdigest()[:12]
