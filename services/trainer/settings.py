"""The trainer's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, DirectoryPath, Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from common.settings import ModelTarget, Names, ServiceSettings, parts
from search_agent.agents import AGENTS


class TrainerSettings(ServiceSettings):
    """Read from TRAINER_… variables or flags."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_", cli_prog_name="trainer")

    port: int = Field(50054, ge=0, le=65535, description="gRPC port")
    metrics_port: int = Field(9104, ge=0, le=65535, description="HTTP port of /metrics for Prometheus")
    runs: Path = Field(description="folder with one folder per training run; created if missing")
    configs: DirectoryPath | None = Field(
        None, description="folder of your own run configurations, NAME.yaml, beside the shipped ones"
    )
    folders: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(parts)] = Field(
        (),
        description="comma-separated folders below which the overrides of a request may name files, in addition to "
        "`ray_folder`",
    )
    services: Names = Field(
        ("127.0.0.1:50051", "127.0.0.1:50053"),
        description="comma-separated retrievers and generators that the overrides of a request may name",
    )
    poll_s: float = Field(2.0, gt=0, description="seconds between checks of jobs and metrics")

    ray_address: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="dashboard of the Ray cluster that trains, http://HEAD:8265; not set: all but training works",
    )
    ray_token: SecretStr | None = Field(None, description="the cluster's token, if it asks for one")
    ray_python: str = Field("python3", description="the Python with verl on the cluster")
    ray_folder: Path = Field(
        default_factory=Path.cwd,
        description="folder on the cluster where training starts; relative paths in configurations are relative to it",
    )

    searcher: ModelTarget = Field(
        "",
        description="host:port or host:port/name of the searcher that checkpoints are promoted into; "
        "host:port,host:port/name for several services, which then all load them",
    )
    searchers: dict[str, ModelTarget] = Field(
        default_factory=dict,
        description="searchers for certain methods as JSON; the same as the gateway's",
    )
    candidate: ModelTarget = Field(
        "",
        description="host:port or host:port/name of a model that only the gate uses, for candidates; not set: a "
        "process with the searcher's engine is started here while the gate runs, which vllm cannot do",
    )
    gate_concurrency: int = Field(4, ge=1, description="questions that the gate asks concurrently")
    gate_limit_s: float = Field(4 * 3600, gt=0, description="time limit of one gate, in seconds")
    searcher_timeout_s: float = Field(60, gt=0, description="deadline of one searcher turn in the gate")
    patience_s: float = Field(
        300, ge=0, description="seconds for which the gate retries a searcher that is busy or unreachable"
    )

    @field_validator("searchers")
    @classmethod
    def _of_methods(cls, value: dict[str, ModelTarget]) -> dict[str, ModelTarget]:
        for name in value:
            if name not in AGENTS:
                raise ValueError(f"{name}: no such method; there are {', '.join(AGENTS)}")
        return value
