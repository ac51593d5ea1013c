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
