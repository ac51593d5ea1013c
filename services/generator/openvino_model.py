"""Models in OpenVINO's pipelines with continuous batching, on CPUs."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common import tracing
from common.control_tokens import ChatTokenizer, ControlTokens
from search_agent.types import Sampling
from services.generator import gguf_files, gguf_header, kept_tokenizers, lora, quick_weights
from services.generator.engine import Request
from services.generator.kept_prompts import FOR_EACH_REQUEST, KeptPrompts
from services.generator.library_engine import Delta, digest
from services.generator.openvino_grammars import Grammars
from services.generator.openvino_pipeline import Job, Pipeline, opened
from services.generator.settings import GeneratorSettings
from services.generator.spelling import Spelling


class OpenVino:
    """Starts models from GGUF files."""

    name = "OpenVINO"

    def __init__(self, settings: GeneratorSettings) -> None:
        self._settings = settings

    def found(self, path: str) -> str:
        """Returns the file of a model, by default of the embedded one. Raises GeneratorError."""
        return str(Path(path).absolute() if path else gguf_files.embedded_model())

    def identity(self, path: str) -> str:
        return f"{Path(path).stem}@{gguf_files.digest(Path(path))}"

    def version(self, adapter: str) -> str:
        if Path(adapter).is_dir():
            return digest(adapter, "adapter_model.safetensors", "adapter")
        return gguf_files.digest(Path(adapter), "adapter")

    def launch(self, path: str) -> OpenVinoModel:
        return OpenVinoModel(Path(path), self._settings)


class OpenVinoModel:
    """A model, and for each adapter a copy of the model that the adapter is merged into.

    A merged copy is read faster than weights and adapter apart, and its cached prompts are its own.
    """

    def __init__(self, file: Path, settings: GeneratorSettings) -> None:
        self._file, self._settings = file, settings
        with _merged(file, "") as copy:
            self._own = kept_tokenizers.opened(copy, settings.cache)
            self._tokenizer = _Tokenizer(self._own, gguf_header.control_tokens(gguf_header.read(file)))
            self._grammars = Grammars(copy, self._own)
            self._pipelines = {0: opened(copy, self._own, settings)}
        most, longest = settings.parallel * FOR_EACH_REQUEST, settings.context_tokens
        self._prompts = KeptPrompts(ChatTokenizer(self._tokenizer), most, longest)

    def tokens(self, request: Request) -> list[int]:
        if request.prompt:
            return self._tokenizer.with_control_tokens(request.prompt)
        return self._prompts.chat(request.messages)

    async def generate(self, prompt: list[int], sampling: Sampling, adapter: int) -> AsyncGenerator[Delta, None]:
        await self._grammars.compile(sampling.grammar)
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[list[int], str, Exception | None]] = asyncio.Queue()

        def receive(*piece: Any) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(arrived.put_nowait, piece)

        job = Job(prompt, sampling, receive)
        self._pipelines[adapter].begin(job)
        spelling, written, first = Spelling(self._tokenizer.decode, sampling.stop), 0, 0.0
        try:
            while True:
                ids, finish, failure = await arrived.get()
                if failure:
                    raise failure
                now = time.perf_counter()
                first = first or now
                written += len(ids)
                text, stop = spelling.add(ids, bool(finish))
                if finish or stop:
                    waited = job.begun - job.asked
                    tracing.current().stages(queue=waited, prompt=first - job.begun, decode=now - first)
                    yield Delta(text, written, "stop" if stop else finish, stop)
                    return
                if text:
                    yield Delta(text, written)
                    written = 0
        finally:
            job.left = True

    async def add(self, adapter: int, path: str) -> None:
        self._pipelines[adapter] = await asyncio.to_thread(self._pipeline, path)

    async def remove(self, adapter: int) -> None:
        await asyncio.to_thread(self._pipelines.pop(adapter).close)

    def dead(self) -> bool:
        return any(pipeline.dead for pipeline in self._pipelines.values())

    def worn(self) -> bool:
        return self._grammars.full

    def close(self) -> None:
        for pipeline in self._pipelines.values():
            pipeline.close()
        self._grammars.close()

    def _pipeline(self, adapter: str) -> Pipeline:
        """Starts the model with an adapter. Raises ValueError."""
        with _merged(self._file, adapter) as copy:
            return opened(copy, self._own, self._settings)


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
                file = lora.to_gguf(file, lora.architecture_of(model), Path(folder) / "adapter.gguf")
            changes = lora.changes(file)
        copy = Path(folder) / model.name
        quick_weights.write(model, copy, changes)
        yield copy


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
