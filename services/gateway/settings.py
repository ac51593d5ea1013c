"""Settings of the gateway."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.settings import ListenHost, ServiceSettings, Target


class GatewaySettings(BaseSettings):
    """Read from GATEWAY_… variables or flags."""

    model_config = SettingsConfigDict(
        **ServiceSettings.model_config | SettingsConfigDict(env_prefix="GATEWAY_", cli_prog_name="gateway")
    )

    host: ListenHost = Field("127.0.0.1", description="address to listen on; :: for all, IPv6 too")
    port: int = Field(8080, ge=0, le=65535, description="HTTP port; /metrics is here too")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    retriever: Target = Field(min_length=1, description="host:port of the retriever")
    searcher: Target = Field(min_length=1, description="host:port of the generator service that holds the searcher")
    generator: Target = Field(min_length=1, description="host:port of the generator service that holds the generator")
    searchers: dict[str, Target] = Field(
        default_factory=dict,
        description='searchers of single methods as JSON, e.g. {"search_r1": "host:port"}',
    )
    trainer: Target = Field("", description="host:port of the trainer; without it there are no /v1/runs")
    redis_url: SecretStr | None = Field(None, description="redis://…; without it nothing is cached")
    cache_ttl_s: int = Field(7 * 24 * 3600, ge=1, description="seconds a naive-RAG result is kept")
    retriever_timeout_s: float = Field(10, gt=0, description="deadline of one retrieval")
    searcher_timeout_s: float = Field(60, gt=0, description="deadline of one searcher turn")
    generator_timeout_s: float = Field(60, gt=0, description="deadline of one answer")
    trainer_timeout_s: float = Field(60, gt=0, description="deadline of a call about runs; watching has none")
    max_in_flight: int = Field(64, ge=1, description="questions worked on at once; more get 503")
    answer_max_tokens: int = Field(64, ge=1, description="longest answer")
    methods: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="parameters by method as JSON, which replace those that the method's searcher was taught, "
        'e.g. {"s3": {"max_turns": 4}}',
    )
    shutdown_grace_s: int = Field(10, ge=0, description="seconds that requests in flight get at stop")
