"""The trainer's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """Read from TRAINER_… variables or flags."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_", cli_prog_name="trainer")

    port: int = Field(50054, ge=0, le=65535, description="gRPC port")
    metrics_port: int = Field(9104, ge=0, le=65535, description="HTTP port of /metrics for Prometheus")
    runs: Path = Field(description="folder of training runs, one folder each; made if it is missing")
    ray_address: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="dashboard of the Ray cluster that trains, http://host:8265; without it nothing is trained",
    )
    searcher: str = Field("127.0.0.1:50052", description="host:port of the searcher that is promoted to")
    candidate: str = Field(
        "", description="host:port of a spare generator service that holds a checkpoint while it is tried"
    )
    poll_s: float = Field(2.0, gt=0, description="seconds between looks at runs under way")
