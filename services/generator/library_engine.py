"""The engine of a library, vLLM or OpenVINO, whose models take LoRA adapters while they run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from common import model_card
from common.error_text import first_line, one_line
from search_agent.errors import Failure, GeneratorError
from search_agent.types import Completion, FinishReason, ModelInfo, Sampling
from services.generator.engine import Request
from services.generator.hot_swap import HotSwap
from services.generator.models import Models, absolute
from services.generator.settings import GeneratorSettings

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_ALIVE_S = 1.0  # between checks that a call's model still lives


@dataclass(frozen=True, slots=True)
class Delta:
    """The text written since the previous delta. Only the last one has a `finish` ("stop", "length" or another)."""

    text: str
    tokens: int
    finish: str = ""
    stop: str = ""


class Dead(Exception):
    """The model can no longer be used."""


class Model(Protocol):
    """One loaded model."""

    def tokens(self, request: Request) -> list[int]:
        """Returns the prompt's ids. Raises ValueError for messages that the template refuses. May be slow."""
        ...

    def generate(self, prompt: list[int], sampling: Sampling, adapter: int) -> AsyncGenerator[Delta, None]:
        """Yields the text as it is written. `adapter` is the number of one that was added, or 0.

        Raises ValueError for a request that it refuses, RuntimeError for one that fails, and Dead.
        """
        ...

    async def add(self, adapter: int, path: str) -> None:
        """Loads an adapter. May never end if the model dies.

        Raises ValueError for an adapter that it refuses, OSError or RuntimeError if there is no room, and Dead.
        """
        ...

    async def remove(self, adapter: int) -> None: ...

    def dead(self) -> bool: ...

    def worn(self) -> bool:
        """Tells whether past requests have left so much that the model should be started anew."""
        ...

    def close(self) -> None:
        """Ends the model. May be slow, and may be called twice."""
        ...


class Library(Protocol):
    """Finds models and starts them. Its functions may be slow."""

    name: str

    def found(self, path: str) -> str:
        """Returns the absolute path of a model. Raises GeneratorError."""
        ...

    def identity(self, path: str) -> str:
        """Returns "name@version" of the model there, whose version stands for its bytes. Raises GeneratorError."""
        ...

    def version(self, adapter: str) -> str:
        """Returns the version of an adapter, which stands for its bytes. Raises GeneratorError."""
        ...

    def launch(self, path: str) -> Model:
        """Starts a model. Raises whatever the library raises."""
        ...


@dataclass(eq=False)
class _Running:
    """A model in memory, its identity without adapters, and the sets of models that it serves."""

    model: Model
    path: str
    identity: str
    served: set[_Serving] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class _Serving:
    """A running model with its adapters: their numbers in the model and the identities, both by name.

    A name without an adapter has no number.
    """

    running: _Running
    models: Models
    numbers: Mapping[str, int]
    identities: Mapping[str, str]

    def __post_init__(self) -> None:
        self.running.served.add(self)

    def dead(self) -> bool:
        return self.running.model.dead()

    async def close(self) -> None:
        """Removes the adapters that nothing else serves; ends the model if it serves nothing else at all."""
        served = self.running.served
        if self in served:
            served.remove(self)
            kept = {number for other in served for number in other.numbers.values()}
            for number in set(self.numbers.values()) - kept:
                if served and not self.dead():
                    await _answer(self.running.model, self.running.model.remove(number))
        if not served:
            await asyncio.to_thread(self.running.model.close)


class LibraryEngine:
    """Serves a model and its adapters, whose requests share batches; `load` puts others in their place.

    Another adapter is added to the running model within moments. Another model starts beside the old one, which ends
    when its requests have ended, so both need memory for a while.
    """

    def __init__(self, settings: GeneratorSettings, library: Library) -> None:
        self._settings = settings
        self._library = library
        self._swap: HotSwap[_Serving] = HotSwap(self._start)
        self._numbers = itertools.count(1)
        # A fast tokenizer is not for two threads at once; the event loop is not for long prompts.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokens")

    @classmethod
    async def start(cls, settings: GeneratorSettings, library: Library) -> LibraryEngine:
        """Loads the models that the settings name. Raises GeneratorError."""
        engine = cls(settings, library)
        adapters = {name: absolute(adapter) for name, adapter in settings.adapters.items()}
        await engine._swap.begin(Models(settings.model, adapters))
        return engine

    @property
    def models(self) -> Models:
        return self._swap.now.models

    async def stream(self, request: Request) -> AsyncGenerator[Completion, None]:
        with self._swap.use() as serving:
            model, identity = serving.running.model, serving.identities[request.model]
            if model.worn():
                self._swap.renew(serving)
            context, written = self._settings.context_tokens, 0
            try:
                loop = asyncio.get_running_loop()
                prompt = await loop.run_in_executor(self._tokenizing, model.tokens, request)
                request.check(len(prompt), context)
                sampling = replace(request.sampling, max_tokens=min(request.sampling.max_tokens, context - len(prompt)))
                async with aclosing(model.generate(prompt, sampling, serving.numbers.get(request.model, 0))) as deltas:
                    async for delta in deltas:
                        written += delta.tokens
                        if not delta.finish:
                            yield Completion(delta.text, None, model=identity)
                        elif delta.finish in _FINISH:
                            reason = _FINISH[delta.finish]
                            yield Completion(delta.text, reason, len(prompt), written, delta.stop, identity)
                        else:
                            raise GeneratorError(
                                Failure.BROKEN, f"{self._library.name} ended with finish reason {delta.finish}"
                            )
            except ValueError as error:
                field = "sampling.grammar" if "grammar" in str(error).lower() else request.field
                raise GeneratorError(Failure.INVALID, first_line(error), field) from None
            except RuntimeError as error:
                raise GeneratorError(Failure.BROKEN, f"{self._library.name} failed: {first_line(error)}") from None
            except Dead:
                self._swap.renew(serving)
                raise GeneratorError(Failure.UNAVAILABLE, f"{self._library.name} died and is started again") from None

    async def info(self, name: str) -> ModelInfo:
        serving = self._swap.now
        if serving.dead():
            self._swap.renew(serving)
            raise GeneratorError(Failure.UNAVAILABLE, f"{self._library.name} died and is started again")
        return self.described(name)

    def described(self, name: str) -> ModelInfo:
        serving = self._swap.now
        models = serving.models
        return ModelInfo(
            serving.identities[name],
            self._settings.engine,
            self._settings.context_tokens,
            grammar=True,
            path=models.path,
            adapter=models.adapter(name),
        )

    async def load(self, name: str, path: str, adapter: str) -> ModelInfo:
        await self._swap.load(name, path, adapter)
        return self.described(name)

    async def close(self) -> None:
        """Ends the models, and the requests in flight on them."""
        await self._swap.close()
        self._tokenizing.shutdown()

    async def _start(self, models: Models, old: _Serving | None, changed: str) -> _Serving:
        """Adds the adapter to the running model if that is the one asked for; otherwise starts the model."""
        if old and not old.dead() and not old.running.model.worn():
            running = old.running
            if await asyncio.to_thread(self._is_that, running, models.path):
                kept = {name: number for name, number in old.numbers.items() if name != changed}
                identities = {name: old.identities[name] for name in kept}
                return await self._with_adapters(running, models, kept, identities)
        path = await asyncio.to_thread(self._library.found, models.path or (old.models.path if old else ""))
        identity = await asyncio.to_thread(self._library.identity, path)
        for adapter in models.adapters.values():
            await asyncio.to_thread(self._adapted, identity, adapter)  # refuses a bad one before the model starts
        try:
            model = await asyncio.to_thread(self._library.launch, path)
        except Exception as error:  # a wrong argument is a TypeError, a missing library an ImportError
            raise GeneratorError(
                Failure.INVALID, f"{self._library.name} does not start: {one_line(error)}", "path"
            ) from error
        try:
            return await self._with_adapters(_Running(model, path, identity), models, {}, {})
        except BaseException:
            await asyncio.to_thread(model.close)
            raise

    async def _with_adapters(
        self, running: _Running, models: Models, kept: dict[str, int], identities: dict[str, str]
    ) -> _Serving:
        """Adds the adapters to the model, but those that are kept, whose numbers and identities are given."""
        numbers = dict(kept)
        for name in models.names:
            adapter = models.adapter(name)
            if name not in kept:
                identities[name] = await asyncio.to_thread(self._adapted, running.identity, adapter)
                if adapter:
                    numbers[name] = await self._add(running.model, adapter)
        return _Serving(running, replace(models, path=running.path), numbers, identities)

    async def _add(self, model: Model, adapter: str) -> int:
        """Returns the adapter's number in the model."""
        number = next(self._numbers)
        try:
            await _answer(model, model.add(number, adapter))
        except (ValueError, OSError, RuntimeError) as error:
            raise GeneratorError(
                Failure.INVALID, f"{self._library.name} does not take {adapter}: {first_line(error)}", "adapter"
            ) from error
        except Dead:
            raise GeneratorError(
                Failure.UNAVAILABLE, f"{self._library.name} died when it was to take {adapter}"
            ) from None
        return number

    def _is_that(self, running: _Running, path: str) -> bool:
        """Tells whether the running model is the one at `path` (empty: it is).

        The weights in memory are those that were read at the start. Hashing takes long, and files may have been
        rewritten, so they are hashed only if a caller names them.
        """
        return not path or (
            self._library.found(path) == running.path and self._library.identity(running.path) == running.identity
        )

    def _adapted(self, base: str, adapter: str) -> str:
        """Returns a model's identity with an adapter (empty: none) on top. Raises GeneratorError."""
        return f"{base}+{self._library.version(adapter)}" if adapter else base


async def _answer(model: Model, call: Coroutine[Any, Any, None]) -> None:
    """Waits for the call. Raises Dead if the model dies first, because a library may then never answer."""
    calling = asyncio.ensure_future(call)
    try:
        while not (await asyncio.wait([calling], timeout=_ALIVE_S))[0]:
            if model.dead():
                raise Dead
        calling.result()
    finally:
        calling.cancel()


def digest(folder: str, pattern: str, field: str) -> str:
    """Returns 12 hexadecimal digits that stand for the bytes of a folder's weights. Raises GeneratorError."""
    try:
        version = model_card.digest(Path(folder).glob(pattern))
    except OSError as error:
        raise GeneratorError(Failure.INVALID, f"cannot read {error.filename}: {error.strerror}", field) from error
    if not version:
        raise GeneratorError(Failure.NOT_FOUND, f"no {pattern} in {folder}", field)
    return version
