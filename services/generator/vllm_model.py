"""Models in vLLM's asynchronous engine, on GPUs of this machine. No other module touches vLLM."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from common.control_tokens import ChatTokenizer
from common.error_text import first_line
from search_agent.errors import Failure, GeneratorError
from search_agent.types import Sampling
from services.generator.engine import Request
from services.generator.kept_prompts import FOR_EACH_REQUEST, KeptPrompts
from services.generator.library_engine import Dead, Delta, digest
from services.generator.settings import GeneratorSettings

_STREAM_INTERVAL = 8  # tokens per piece after the first; passing them on one by one would keep a core busy
_SPARSE, _DENSE = 64, 4  # up to _SPARSE tokens a graph for each doubling, then _DENSE


def tokens(tokenizer: Any, prompts: KeptPrompts, request: Request) -> list[int]:
    """Returns the prompt's ids. Raises ValueError for messages that the tokenizer's template refuses."""
    return list(tokenizer.encode(request.prompt)) if request.prompt else prompts.chat(request.messages)


def graphs(tokens: int) -> dict[str, Any]:
    """Returns engine arguments with which vLLM replays every step as CUDA graphs; no step has more than `tokens`.

    Launching a small model's kernels one by one takes longer than computing them. Steps that only decode are one graph.
    Others are pieces with attention in between: in one graph with it, FlashAttention 3 computes wrongly now and then
    (pytorch/torchtitan#3668). Nothing is compiled. Must be called before vLLM is imported. 0 leaves graphs to vLLM.
    """
    if not tokens:
        return {}
    os.environ["VLLM_USE_BREAKABLE_CUDAGRAPH"] = "1"
    sizes, size = [], 1
    while size < tokens:
        sizes += [size] if size < _SPARSE else [size + size // _DENSE * part for part in range(_DENSE)]
        size *= 2
    recorded = [*(each for each in sizes if each < tokens), tokens]
    kinds = {"mode": "none", "cudagraph_mode": "full_and_piecewise", "cudagraph_capture_sizes": recorded}
    return {"max_num_batched_tokens": tokens, "compilation_config": kinds}


class Vllm:
    """Starts models from folders in Hugging Face's format, or from a hub."""

    name = "vLLM"

    def __init__(self, settings: GeneratorSettings) -> None:
        self._settings = settings

    def found(self, path: str) -> str:
        """Returns the folder of a model; downloads a hub id. Raises GeneratorError."""
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

    def identity(self, path: str) -> str:
        folder = Path(path)
        # The hub keeps a model in models--OWNER--NAME/snapshots/COMMIT.
        name = folder.parent.parent.name.rpartition("--")[2] if folder.parent.name == "snapshots" else folder.name
        return f"{name}@{digest(path, '*.safetensors', 'path')}"

    def version(self, adapter: str) -> str:
        return digest(adapter, "adapter_model.safetensors", "adapter")

    def launch(self, path: str) -> VllmModel:
        return VllmModel(path, self._settings)


class VllmModel:
    """A model in vLLM's asynchronous engine, which works in its own processes."""

    def __init__(self, folder: str, settings: GeneratorSettings) -> None:
        # gRPC's threads do not survive a fork.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        steps = graphs(settings.graph_tokens)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments: dict[str, Any] = {
            "model": folder,
            "max_model_len": settings.context_tokens,
            "max_num_seqs": settings.parallel,
            "tensor_parallel_size": settings.tensor_parallel,
            "gpu_memory_utilization": settings.gpu_memory,
            "enable_prefix_caching": True,  # a turn's prompt begins with the previous turn's
            "stream_interval": _STREAM_INTERVAL,
            **steps,
        }
        if settings.adapter_rank:
            arguments |= {
                "enable_lora": True,
                "max_lora_rank": settings.adapter_rank,
                "max_loras": len(settings.adapters) + 1,  # and one on which requests in flight finish
            }
        self._llm: Any = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments | settings.vllm_arguments),
            usage_context=UsageContext.OPENAI_API_SERVER,  # steps as large as the GPU can use
        )
        self._tokenizer: Any = self._llm.get_tokenizer()
        most, longest = settings.parallel * FOR_EACH_REQUEST, settings.context_tokens
        self._prompts = KeptPrompts(ChatTokenizer(self._tokenizer), most, longest)
        self._adapters: dict[int, Any] = {0: None}
        self._names = itertools.count()

    def tokens(self, request: Request) -> list[int]:
        return tokens(self._tokenizer, self._prompts, request)

    async def generate(self, prompt: list[int], sampling: Sampling, adapter: int) -> AsyncGenerator[Delta, None]:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        parameters = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop=list(sampling.stop),
            structured_outputs=StructuredOutputsParams(grammar=sampling.grammar) if sampling.grammar else None,
            output_kind=RequestOutputKind.DELTA,
        )
        name = str(next(self._names))
        outputs = self._llm.generate(
            TokensPrompt(prompt_token_ids=prompt), parameters, name, lora_request=self._adapters[adapter]
        )
        try:
            async with aclosing(outputs) as running:  # closing it ends the work
                async for output in running:
                    (written,) = output.outputs
                    stop = written.stop_reason if isinstance(written.stop_reason, str) else ""
                    yield Delta(written.text, len(written.token_ids), written.finish_reason or "", stop)
        except EngineDeadError:
            raise Dead from None
        except EngineGenerateError as error:
            raise RuntimeError(first_line(error.__cause__ or error)) from error

    async def add(self, adapter: int, path: str) -> None:
        from vllm.lora.request import LoRARequest

        request = LoRARequest(str(adapter), adapter, path)
        await self._refusals(self._llm.add_lora(request))
        self._adapters[adapter] = request

    async def remove(self, adapter: int) -> None:
        await self._refusals(self._llm.remove_lora(adapter))
        del self._adapters[adapter]

    async def _refusals(self, call: Awaitable[object]) -> None:
        """Awaits a call, and turns the plain Exception by which vLLM's process reports a failure into ValueError."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await call
        except EngineDeadError:
            raise Dead from None
        except Exception as error:
            raise ValueError(first_line(error)) from error

    def dead(self) -> bool:
        return bool(self._llm.errored)

    def worn(self) -> bool:
        return False  # all its caches are bounded

    def close(self) -> None:
        self._llm.shutdown()
