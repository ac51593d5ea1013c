"""Models in OpenVINO's pipelines with continuous batching, on CPUs. No other module touches OpenVINO."""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from common.control_tokens import ChatTokenizer, ControlTokens
from search_agent.types import Sampling
from services.generator import gguf_header, lora, quick_weights
from services.generator.engine import Request
from services.generator.kept_prompts import FOR_EACH_REQUEST, KeptPrompts
from services.generator.library_engine import Dead, Delta, digest
from services.generator.llama_cpp import digest as gguf_digest
from services.generator.llama_cpp import embedded_model
from services.generator.settings import GeneratorSettings
from services.generator.spelling import Spelling

_BLOCK_TOKENS = 32  # of OpenVINO's cache on CPUs
_DEEPEST_GRAMMAR = 200  # brackets within each other; the compiler's stack is full at some tens of thousands

# OpenVINO reports every import to a host on the internet if it finds this module.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

log = structlog.get_logger()

# New ids, "" or the finish, and the failure if there is one.
Receive = Callable[[list[int], str, Exception | None], None]


class OpenVino:
    """Starts models from GGUF files."""

    name = "OpenVINO"

    def __init__(self, settings: GeneratorSettings) -> None:
        self._settings = settings

    def found(self, path: str) -> str:
        """Returns the file of a model, by default of the embedded one. Raises GeneratorError."""
        return str(Path(path).absolute() if path else embedded_model())

    def identity(self, path: str) -> str:
        return f"{Path(path).stem}@{gguf_digest(Path(path))}"

    def version(self, adapter: str) -> str:
        if Path(adapter).is_dir():
            return digest(adapter, "adapter_model.safetensors", "adapter")
        return gguf_digest(Path(adapter), "adapter")

    def launch(self, path: str) -> OpenVinoModel:
        return OpenVinoModel(Path(path), self._settings)


class OpenVinoModel:
    """A model, and for each adapter a copy of the model that the adapter is merged into.

    A merged copy is read faster than weights and adapter apart, and its cached prompts are its own.
    """

    def __init__(self, file: Path, settings: GeneratorSettings) -> None:
        import openvino_genai

        self._file, self._settings = file, settings
        with _merged(file, "") as copy:
            self._own = openvino_genai.Tokenizer(str(copy))
            self._tokenizer = _Tokenizer(self._own, gguf_header.control_tokens(gguf_header.read(file)))
            self._pipelines = {0: _Pipeline(copy, self._own, settings)}
        self._prompts = KeptPrompts(ChatTokenizer(self._tokenizer), settings.parallel * FOR_EACH_REQUEST)

    def tokens(self, request: Request) -> list[int]:
        if request.prompt:
            return self._tokenizer.with_control_tokens(request.prompt)
        return self._prompts.chat(request.messages)

    async def generate(self, prompt: list[int], sampling: Sampling, adapter: int) -> AsyncGenerator[Delta, None]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[list[int], str, Exception | None]] = asyncio.Queue()

        def receive(*piece: Any) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(arrived.put_nowait, piece)

        pipeline = self._pipelines[adapter]
        number = pipeline.begin(prompt, sampling, receive)
        spelling, written = Spelling(self._tokenizer.decode, sampling.stop), 0
        try:
            while True:
                ids, finish, failure = await arrived.get()
                if failure:
                    raise failure
                written += len(ids)
                text, stop = spelling.add(ids, bool(finish))
                if finish or stop:
                    yield Delta(text, written, "stop" if stop else finish, stop)
                    return
                if text:
                    yield Delta(text, written)
                    written = 0
        finally:
            pipeline.leave(number)

    async def add(self, adapter: int, path: str) -> None:
        self._pipelines[adapter] = await asyncio.to_thread(self._pipeline, path)

    async def remove(self, adapter: int) -> None:
        await asyncio.to_thread(self._pipelines.pop(adapter).close)

    def dead(self) -> bool:
        return any(pipeline.dead for pipeline in self._pipelines.values())

    def close(self) -> None:
        for pipeline in self._pipelines.values():
            pipeline.close()

    def _pipeline(self, adapter: str) -> _Pipeline:
        """Starts the model with an adapter. Raises ValueError."""
        with _merged(self._file, adapter) as copy:
            return _Pipeline(copy, self._own, self._settings)


@contextmanager
def _merged(model: Path, adapter: str) -> Iterator[Path]:
    """Yields a copy of a model with an adapter (empty: none), a PEFT folder or a GGUF file. Raises ValueError.

    OpenVINO opens a GGUF file for writing too, so it reads no file of a read-only disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        changes = {}
        if adapter:
            file = Path(adapter)
            if file.is_dir():
                file = lora.to_gguf(file, lora.heads_of(model), Path(folder) / "adapter.gguf")
            changes = lora.changes(file)
        copy = Path(folder) / model.name
        quick_weights.write(model, copy, changes)
        yield copy


class _Pipeline:
    """One set of weights, and the thread that works with them."""

    def __init__(self, file: Path, tokenizer: Any, settings: GeneratorSettings) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = settings.parallel
        scheduler.num_kv_blocks = -(-settings.context_tokens // _BLOCK_TOKENS) * settings.parallel
        # A turn's prompt begins with the previous turn's. Blocks that no request uses keep what was read last.
        scheduler.enable_prefix_caching = True
        self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
            str(file), tokenizer, scheduler, "CPU", INFERENCE_NUM_THREADS=settings.threads
        )
        self._end: int = tokenizer.get_eos_token_id()
        self.dead = False
        self._closed = False
        self._numbers = 0
        self._waiting: dict[int, tuple[list[int], Sampling, Receive]] = {}
        self._left: set[int] = set()
        self._changed = threading.Condition()  # guards all of the above
        self._running: dict[int, tuple[Any, Receive]] = {}
        self._grammars = {""}  # those that have been compiled
        self._thread = threading.Thread(target=self._work, name="openvino", daemon=True)
        self._thread.start()

    def begin(self, prompt: list[int], sampling: Sampling, receive: Receive) -> int:
        """Returns the number of a new request, whose ids `receive` gets in the pipeline's thread.

        Raises Dead, and ValueError for a grammar that would end the process.
        """
        if _depth(sampling.grammar) > _DEEPEST_GRAMMAR:
            raise ValueError(f"the grammar has more than {_DEEPEST_GRAMMAR} brackets within each other")
        with self._changed:
            if self.dead or self._closed:
                raise Dead
            self._numbers += 1
            self._waiting[self._numbers] = prompt, sampling, receive
            self._changed.notify()
            return self._numbers

    def leave(self, number: int) -> None:
        """Ends a request, unless it has ended."""
        with self._changed:
            if not self._waiting.pop(number, None):
                self._left.add(number)
                self._changed.notify()

    def close(self) -> None:
        """Ends the requests and the thread. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            while not self._closed:
                self._turn()
        except Exception:  # of whatever kind: nothing is known of the requests' state any more
            log.exception("OpenVINO failed")
        with self._changed:
            self.dead = True
            waiting = [receive for _, _, receive in self._waiting.values()]
        for receive in (*waiting, *(receive for _, receive in self._running.values())):
            receive([], "", Dead())
        self._running.clear()
        del self._pipeline

    def _turn(self) -> None:
        """Takes in and drops requests, and lets the others write a token. Waits if there are none."""
        with self._changed:
            while not (self._closed or self._waiting or self._left or self._running):
                self._changed.wait()
            left, self._left = self._left, set()
            admitted = self._admitted()
        for number in left & self._running.keys():
            self._running.pop(number)[0].cancel()
        for number, (prompt, sampling, receive) in admitted.items():
            self._running[number] = self._add(number, prompt, sampling), receive
        grammars = {sampling.grammar for _, sampling, _ in admitted.values()}
        try:
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
        except RuntimeError as error:
            if grammars <= self._grammars:
                raise
            (number,) = admitted
            handle, receive = self._running.pop(number)
            handle.cancel()
            self._pipeline.step()  # or it would spoil the next one
            receive([], "", ValueError(f"grammar: {_reason(error)}"))
        else:
            self._grammars |= grammars
        for number, (handle, receive) in list(self._running.items()):
            if self._read(handle, receive):
                del self._running[number]

    def _admitted(self) -> dict[int, tuple[list[int], Sampling, Receive]]:
        """Takes the requests that may run now from those that wait, in their order.

        OpenVINO compiles a grammar in a step. A wrong one then leaves all requests of that step unusable, so that a new
        grammar's first request runs its first step alone.
        """
        admitted: dict[int, tuple[list[int], Sampling, Receive]] = {}
        for number, request in list(self._waiting.items()):
            new = request[1].grammar not in self._grammars
            if not new or not (admitted or self._running):
                admitted[number] = self._waiting.pop(number)
            if new:
                break
        return admitted

    def _add(self, number: int, prompt: list[int], sampling: Sampling) -> Any:
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.eos_token_id = self._end
        config.stop_token_ids = {self._end}
        config.max_new_tokens = sampling.max_tokens
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p = sampling.temperature, sampling.top_p
            config.rng_seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        if sampling.grammar:
            config.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=sampling.grammar)
        return self._pipeline.add_request(number, openvino.Tensor(np.array([prompt])), config)

    def _read(self, handle: Any, receive: Receive) -> bool:
        """Passes on what a request has written since, and returns whether it has ended."""
        import openvino_genai

        finishes = openvino_genai.GenerationFinishReason
        while handle.can_read():
            for output in handle.read().values():
                finish = {finishes.STOP: "stop", finishes.LENGTH: "length"}.get(output.finish_reason, "")
                receive(list(output.generated_ids), finish, None)
                if finish:
                    return True
        if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
            receive([], "", RuntimeError(f"a request ended as {handle.get_status()}"))
            return True
        return False


def _depth(grammar: str) -> int:
    """Returns how many brackets of a grammar stand within each other, at most."""
    return max(accumulate((each == "(") - (each == ")") for each in grammar), default=0)


def _reason(error: RuntimeError) -> str:
    """Returns the last line of OpenVINO's message, without the place in its source."""
    return str(error).strip().splitlines()[-1].rpartition(": EBNF ")[2]


class _Tokenizer:
    """OpenVINO's tokenizer in the form of one of transformers', as far as ChatTokenizer needs it."""

    def __init__(self, tokenizer: Any, control: dict[str, int]) -> None:
        self._tokenizer, self._control = tokenizer, ControlTokens(control)
        self.added_tokens_decoder = {number: _ControlToken(text) for text, number in control.items()}

    def apply_chat_template(self, conversation: list[dict[str, str]], **how: bool) -> Any:
        """Returns a prompt as text or, to `tokenize`, as ids."""
        last = conversation[-1:] if how["continue_final_message"] else []
        asked = conversation[: len(conversation) - len(last)]
        prompt = self._tokenizer.apply_chat_template(asked, add_generation_prompt=True)
        prompt += "".join(message["content"] for message in last)
        # The template writes the token that begins a text, where the model has one.
        return self._ids(prompt, add_special_tokens=False) if how["tokenize"] else prompt

    def with_control_tokens(self, text: str) -> list[int]:
        """Returns the ids of a text whose control tokens count as such."""
        return self._ids(text, add_special_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        """Returns the ids of a text without control tokens: what looks like one is cut after its first character."""
        ids: list[int] = []
        for part in self._control.cut(text):
            ids += self._ids(part, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(map(int, self._tokenizer.encode(text, add_special_tokens=add_special_tokens).input_ids.data[0]))


class _ControlToken(str):
    """A control token's text."""

    special = True
