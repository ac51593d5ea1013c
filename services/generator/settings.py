"""Settings of the generator service, which holds the searcher, the generator, or both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from common.addresses import MODEL_NAME
from common.settings import ServiceSettings, parts
from services.generator.models import BASE


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class GeneratorSettings(ServiceSettings):
    """Serves a language model and its adapters over gRPC."""

    model_config = SettingsConfigDict(env_prefix="GENERATOR_")

    port: int = Field(50053, ge=0, le=65535, description="gRPC port")
    metrics_port: int = Field(9103, ge=0, le=65535, description="HTTP port of /metrics for Prometheus")
    engine: Literal["llama.cpp", "openvino", "vllm", "openai"] = Field(
        "llama.cpp",
        description="llama.cpp: a GGUF file; openvino: the same, faster on CPUs, for Llama, Qwen2 and Qwen3 models; "
        "vllm: a model folder on GPUs; openai: an OpenAI-compatible endpoint",
    )
    max_tokens: int = Field(2048, ge=1, description="the most tokens one request may ask for")

    model: str = Field(
        "",
        validate_default=True,
        description="llama.cpp, openvino: a GGUF file; not set: the embedded SmolLM2-135M-Instruct, with weights in "
        "Q8_0. vllm: a folder or a hub id; required",
    )
    adapters: dict[Annotated[str, Field(pattern=MODEL_NAME)], str] = Field(
        {"default": ""},
        min_length=1,
        description="models by name as JSON, the first of which is the default: each is a LoRA adapter on top of the "
        "model, a folder as PEFT writes it; llama.cpp, openvino: of a Llama, Qwen2 or Qwen3, or a GGUF file; openai: "
        "another model of the endpoint; empty: none. `base` is the model itself",
    )
    state: Path | None = Field(
        None, description="file that records what LoadModel loaded, for the next start; not set: it is forgotten"
    )
    cache: Path | None = Field(
        None,
        description="openvino: folder that keeps a model's tokenizer for the next start, which then takes 1.5 s less; "
        "not set: none is kept",
    )
    folders: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(parts)] = Field(
        (),
        description="comma-separated folders below which LoadModel may open files, beside the files set here: a "
        "trainer's runs, so that their checkpoints can be promoted",
    )
    context_tokens: int = Field(5120, ge=64, description="tokens of one request, prompt and completion together")
    parallel: int = Field(
        0,
        ge=0,
        validate_default=True,
        description="requests decoded together; others wait; 0: 256 with vllm, else 4",
    )
    threads: int = Field(default_factory=_usable_cpus, ge=1, description="CPU threads of llama.cpp or openvino")
    gpu_layers: int = Field(0, ge=-1, description="layers that llama.cpp puts on the GPU; -1: all")

    tensor_parallel: int = Field(1, ge=1, description="GPUs that share vLLM's model")
    gpu_memory: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of each GPU's memory that vLLM takes for model and cache; at most half if LoadModel is to "
        "change the base model, because both models are in memory for a while",
    )
    adapter_rank: int = Field(64, ge=0, description="greatest rank of a LoRA adapter in vLLM; 0: no adapters")
    graph_tokens: int = Field(
        0,
        ge=0,
        description="vLLM replays steps of up to so many tokens as CUDA graphs, and takes no larger ones; 4096 suits "
        "small models, whose kernels take longer to launch than to run (bench/pages/agents.md); 0: vLLM's own default",
    )
    vllm_arguments: dict[str, Any] = Field(
        {}, description='more engine arguments of vLLM as JSON, for example {"quantization": "fp8"}'
    )

    openai_base_url: str = Field(
        "",
        validate_default=True,
        description='base URL of the endpoint, for example "http://vllm:8000/v1"; required with engine=openai',
    )
    openai_model: str = Field(
        "", validate_default=True, description="the model to ask for; required with engine=openai"
    )
    openai_api_key: SecretStr | None = Field(None, description="API key of the endpoint, if it asks for one")
    openai_dialect: Literal["plain", "llama.cpp", "vllm"] = Field(
        "plain",
        description="the endpoint's server, which decides how it takes a grammar and continues an assistant message; "
        "plain: it does neither",
    )
    openai_thinking_tokens: int | None = Field(
        None,
        ge=0,
        description="tokens that the endpoint may spend on thinking, in addition to those of the answer; not set: 4096 "
        "once it has been seen to think",
    )
    openai_retries: int = Field(2, ge=0, description="retries after a refused connection, 429 or 5xx")
    openai_timeout_s: float = Field(120.0, gt=0, description="seconds to wait for the next piece of the answer")

    @field_validator("model")
    @classmethod
    def _there(cls, value: str, info: ValidationInfo) -> str:
        engine = info.data.get("engine")
        if engine == "vllm" and not value:
            raise ValueError("required when GENERATOR_ENGINE is vllm")
        if engine in ("llama.cpp", "openvino") and value and not Path(value).is_file():
            raise ValueError("there is no such file")
        if engine == "vllm" and value.startswith(("/", ".")) and not Path(value).is_dir():
            raise ValueError("there is no such folder")
        return value

    @field_validator("adapters")
    @classmethod
    def _there_too(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for name, adapter in value.items():
            if name == BASE:
                raise ValueError(f"{BASE} is the name of the model itself; choose another")
            if adapter and info.data.get("engine") != "openai" and not Path(adapter).exists():
                raise ValueError(f"{name}: there is no such file or folder")
        return value

    @field_validator("state")
    @classmethod
    def _writable(cls, value: Path | None) -> Path | None:
        if value and not value.parent.is_dir():
            raise ValueError(f"there is no folder {value.parent}")
        return value

    @field_validator("openai_base_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value

    @field_validator("parallel")
    @classmethod
    def _of_its_engine(cls, value: int, info: ValidationInfo) -> int:
        return value or (256 if info.data.get("engine") == "vllm" else 4)

    @field_validator("graph_tokens")
    @classmethod
    def _room_for_all(cls, value: int, info: ValidationInfo) -> int:
        parallel = info.data.get("parallel", 0)
        if info.data.get("engine") == "vllm" and 0 < value < parallel:
            raise ValueError(f"must be at least GENERATOR_PARALLEL, {parallel}: each request may get a token in a step")
        return value

    @field_validator("openai_base_url", "openai_model")
    @classmethod
    def _needed_by_its_engine(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("engine") == "openai":
            raise ValueError("required when GENERATOR_ENGINE is openai")
        return value
