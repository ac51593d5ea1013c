"""Settings of the generator service, which is run twice: as searcher and as generator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import DirectoryPath, Field, FilePath, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class GeneratorSettings(ServiceSettings):
    """Serves one language model over gRPC."""

    model_config = SettingsConfigDict(env_prefix="GENERATOR_")

    port: int = Field(50053, ge=0, le=65535, description="gRPC port")
    metrics_port: int = Field(9103, ge=0, le=65535, description="HTTP port of /metrics for Prometheus")
    engine: Literal["llama.cpp", "openai"] = Field(
        "llama.cpp", description="a model file of ours, or an OpenAI-compatible endpoint"
    )
    max_tokens: int = Field(2048, ge=1, description="the most tokens one request may ask for")

    model: FilePath | None = Field(None, description="GGUF file; not set: the embedded SmolLM2-135M-Instruct")
    adapter: FilePath | DirectoryPath | None = Field(
        None, description="LoRA adapter on top of the model: a GGUF file, or a folder as PEFT writes it"
    )
    state: Path | None = Field(
        None, description="file that keeps what LoadModel put in place, for the next start; not set: it is forgotten"
    )
    context_tokens: int = Field(4096, ge=64, description="prompt and completion of one request")
    parallel: int = Field(4, ge=1, description="requests decoded together; more wait")
    threads: int = Field(default_factory=_usable_cpus, ge=1, description="CPU threads of llama.cpp")
    gpu_layers: int = Field(0, ge=-1, description="layers on the GPU; -1: all")

    openai_base_url: str = Field(
        "",
        validate_default=True,
        description='for example "http://vllm:8000/v1"; required with engine=openai',
    )
    openai_model: str = Field(
        "", validate_default=True, description="the model to ask for; required with engine=openai"
    )
    openai_api_key_file: FilePath | None = Field(None, description="file that holds the API key")
    openai_dialect: Literal["plain", "llama.cpp", "vllm"] = Field(
        "plain",
        description="what the endpoint is: how it takes a grammar and continues an assistant message "
        "(a plain one does neither)",
    )
    openai_retries: int = Field(2, ge=0, description="repeats after a refused connection, 429 or 5xx")
    openai_timeout_s: float = Field(120.0, gt=0, description="seconds to wait for the next piece")

    @field_validator("openai_base_url", "openai_model")
    @classmethod
    def _needed_by_its_engine(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("engine") == "openai":
            raise ValueError("required when GENERATOR_ENGINE is openai")
        return value
