"""Settings of the gateway."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common import addresses
from common.keys import Limits
from common.settings import ListenHost, ModelTarget, Names, ServiceSettings, Target
from services.gateway.methods import Configuration


class KeySettings(BaseSettings):
    """Where the keys are; `search-agent keys` reads these as well."""

    model_config = SettingsConfigDict(
        **ServiceSettings.model_config | SettingsConfigDict(env_prefix="GATEWAY_", cli_prog_name="gateway")
    )

    keys: str = Field(
        "",
        description="where API keys are kept: a file, or `redis` for GATEWAY_REDIS_URL; not set: no keys are required",
    )
    redis_url: SecretStr | None = Field(
        None, validate_default=True, description="redis://…; not set: nothing is cached"
    )

    @field_validator("keys")
    @classmethod
    def _no_url(cls, value: str) -> str:
        if "://" in value:
            raise ValueError("must be a file, or `redis` for the one at GATEWAY_REDIS_URL")
        return value

    @field_validator("redis_url")
    @classmethod
    def _there_for_the_keys(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("keys") == "redis" and not value:
            raise ValueError("required when GATEWAY_KEYS is redis")
        return value

    def key_store(self) -> str:
        """Returns the file or the Redis URL that holds the keys, or "" if no key is asked for."""
        return self.redis_url.get_secret_value() if self.keys == "redis" and self.redis_url else self.keys


class GatewaySettings(KeySettings):
    """Read from GATEWAY_… variables or flags."""

    host: ListenHost = Field("127.0.0.1", description="address to listen on; :: for all, IPv6 too")
    port: int = Field(8080, ge=0, le=65535, description="HTTP port; /metrics is here too")
    published: str = Field(
        "",
        description="address at which others reach the gateway if it is not `host`, such as a port that Docker "
        "publishes: 127.0.0.1:8080",
    )
    open_to_all: bool = Field(False, description="require no keys even though other machines can reach the gateway")
    hosts: Names = Field(
        (),
        description="comma-separated host names that the gateway answers to, beside addresses, localhost and names "
        "without a dot; *.example.org: all subdomains; not set: every name if keys are required, else none",
    )
    cors_origins: Names = Field(
        (), description="comma-separated sites whose pages may call the gateway: https://app.example.org; *: all"
    )
    root_path: str = Field(
        "", pattern="^(/.*[^/])?$", description="path under which a proxy serves the gateway: /search-agent"
    )
    max_body_bytes: int = Field(1_000_000, ge=1, description="longest body of a request, in bytes")
    max_passages_bytes: int = Field(1_000_000_000, ge=1, description="longest body of passages for an index, in bytes")
    body_timeout_s: float = Field(
        30, gt=0, description="seconds that a request's body may take to arrive; for passages, the longest pause in it"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    retriever: Target = Field(min_length=1, description="host:port of the retriever")
    searcher: ModelTarget = Field(
        min_length=1,
        description="host:port of the generator service that holds the searcher; host:port/name for one of several "
        "models of the service, host:port/base for its base model; host:port,host:port/name for several services that "
        "hold the same model, over which conversations are distributed",
    )
    generator: ModelTarget = Field(
        min_length=1,
        description="host:port or host:port/name of the generator service that holds the generator; "
        "host:port,host:port/name for several services",
    )
    searchers: dict[str, ModelTarget] = Field(
        default_factory=dict,
        description='searchers for certain methods as JSON, e.g. {"search_r1": "host:port/base"}',
    )
    generators: dict[str, ModelTarget] = Field(
        default_factory=dict,
        description='generators for certain methods as JSON, e.g. {"cot": "host:port/base"}',
    )
    trainer: Target = Field("", description="host:port of the trainer; not set: /v1/runs answers 404")
    cache_ttl_s: int = Field(7 * 24 * 3600, ge=1, description="seconds for which a naive-RAG result is kept")
    retriever_timeout_s: float = Field(10, gt=0, description="deadline of one retrieval")
    searcher_timeout_s: float = Field(60, gt=0, description="deadline of one searcher turn")
    generator_timeout_s: float = Field(60, gt=0, description="deadline of one answer")
    trainer_timeout_s: float = Field(60, gt=0, description="deadline of a call to the trainer; watching a run has none")
    question_timeout_s: float = Field(
        300, gt=0, description="seconds that a question, or another request, may take in total"
    )
    max_in_flight: int = Field(64, ge=1, description="questions answered at once, however fast they are; more get 503")
    max_slowdown: float = Field(
        2,
        ge=1,
        description="a question gets 503 if, beside the questions in progress, it is expected to take more than this "
        "many times as long as alone, and more than a second",
    )
    first_question_s: float = Field(
        5, gt=0, description="seconds that a question is assumed to take until one of its method has been timed"
    )
    first_at_once: int = Field(4, ge=1, description="questions answered at once until some have been timed")
    requests_per_minute: int = Field(0, ge=0, description="limit of a key that sets none itself; 0: none")
    questions_at_once: int = Field(0, ge=0, description="limit of a key that sets none itself; 0: none")
    tokens_per_day: int = Field(0, ge=0, description="limit of a key that sets none itself; 0: none")
    answer_max_tokens: int = Field(64, ge=1, description="longest answer, in tokens")
    methods: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="parameters by method as JSON, which replace those that the method's searcher was taught, "
        'e.g. {"s3": {"max_turns": 4}}',
    )
    configurations: dict[str, Configuration] = Field(
        default_factory=dict,
        description="named methods with parameters as JSON, "
        'e.g. {"quick": {"method": "s3", "parameters": {"max_turns": 1}}}',
    )
    guard: str = Field(
        "off",
        pattern="^(off|rules|https?://.+)$",
        description="guard that withholds passages which try to instruct a model: `rules` for the built-in rules, or a "
        "service at http(s)://…, which may also refuse answers",
    )
    guard_timeout_s: float = Field(2, gt=0, description="seconds that a guard service may take")
    guard_fails: Literal["open", "closed"] = Field(
        "closed", description="if the guard does not answer: open lets everything pass, closed fails the question"
    )
    condense: Literal["off", "searcher", "generator"] = Field(
        "off",
        description="model that rewrites the last question of a conversation so that it needs no earlier message; "
        "generator: the one of `direct`; off: earlier messages are not read",
    )
    shadow_share: float = Field(
        0,
        ge=0,
        le=1,
        description="share of the answered questions that naive RAG answers too, in the background, for a judge to "
        "compare; 0: none",
    )
    shadow_tokens_per_day: int = Field(
        1_000_000, ge=1, description="tokens that shadow RAG may use in a day, including the judge's"
    )
    shadow_judge_url: str = Field(
        "",
        pattern="^(https?://.+)?$",
        validate_default=True,
        description="OpenAI-compatible endpoint of the judge, such as https://llm.example.org/v1; it receives "
        "questions, passages and answers",
    )
    shadow_judge_model: str = Field("", validate_default=True, description="model of the judge")
    shadow_judge_key: SecretStr | None = Field(None, description="API key of the judge's endpoint")
    shadow_judge_timeout_s: float = Field(60, gt=0, description="seconds that the judge may take per answer")
    shadow_excluded: Names = Field((), description="comma-separated ids of keys whose questions shadow RAG leaves out")
    citations: Literal["annotations", "text"] = Field(
        "annotations", description="how OpenAI's clients get citations; text: also written under the answer"
    )
    drain_s: float = Field(
        0,
        ge=0,
        description="seconds for which a stopping gateway still takes requests, while /readyz says that it is stopping",
    )
    shutdown_grace_s: float = Field(10, ge=0, description="seconds that requests in progress then get to finish")

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not re.fullmatch(r"(\*\.)?[\w.-]+", host):
                raise ValueError(f"{host!r} is not a host name without scheme and port, such as search.example.org")
        return tuple(host.lower().rstrip(".") for host in value)

    @field_validator("shadow_judge_url", "shadow_judge_model")
    @classmethod
    def _there_for_the_shadow(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("shadow_share") and not value:
            raise ValueError("required when GATEWAY_SHADOW_SHARE is above 0")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/]+", origin):
                raise ValueError(f"{origin!r} is not an origin without a path, such as https://app.example.org")
        return tuple(origin.lower() for origin in value)

    def is_reached_from_elsewhere(self) -> bool:
        """Returns whether other machines reach the gateway."""
        host = self.published.rpartition(":")[0] if self.published else self.host
        return not addresses.is_loopback(host)

    def limits(self) -> Limits:
        """Returns the limits of a key that sets none itself."""
        return Limits(self.requests_per_minute, self.questions_at_once, self.tokens_per_day)
