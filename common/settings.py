"""Settings: one frozen class per service, read from the environment or flags, checked once at start."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict, SettingsError

from common import addresses
from common.problems import Problem
from common.secret import secret


def _target(value: str) -> str:
    return value if not value or addresses.is_grpc(value) else addresses.join(*addresses.split(value))


def _targets(value: str) -> str:
    """Returns one address, or several with commas in between."""
    several = addresses.several(value)
    if len(several) == 1:
        return _target(value)
    found: list[str] = []
    for each in several:
        try:
            address = addresses.join(*addresses.split(each))
        except ValueError as error:
            raise ValueError(f"{each!r} in HOST:PORT,HOST:PORT/NAME: {error}") from None
        if address in found:
            raise ValueError(f"{address} is there twice")
        found.append(address)
    return ",".join(found)


def _model_target(value: str) -> str:
    address, name = addresses.model_at(value)
    if address == value:
        return _targets(value)
    if not re.fullmatch(addresses.MODEL_NAME, name):
        raise ValueError("must be HOST:PORT or HOST:PORT/NAME, for example generator:50053/reader")
    return f"{_targets(address)}/{name}"


def parts(value: object) -> object:
    """Returns the parts of a text with commas in between, and any other value as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parts)]  # with commas in between
ListenHost = Annotated[str, AfterValidator(addresses.bare)]
Target = Annotated[str, AfterValidator(_target)]  # the address of a gRPC service, or empty
# HOST:PORT/NAME: a generator service and one of its models, the first one without /NAME; or empty. Of several services
# that hold the same model, HOST:PORT,HOST:PORT/NAME.
ModelTarget = Annotated[str, AfterValidator(_model_target)]


class ServiceSettings(BaseSettings):
    """Settings that every gRPC service shares."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        extra="ignore",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    host: ListenHost = Field("127.0.0.1", description="address to listen on; :: for all, IPv6 too")
    port: int = Field(ge=0, le=65535, description="gRPC port")
    metrics_port: int = Field(ge=0, le=65535, description="HTTP port of /metrics for Prometheus")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_in_flight: int = Field(256, ge=1, description="calls served at once; more are refused")
    drain_s: float = Field(
        0.0,
        ge=0,
        description="seconds for which a stopping service still takes calls, while its health check says that it stops",
    )
    shutdown_grace_s: float = Field(10.0, ge=0, description="seconds that calls in progress then get to finish")


class TracingSettings(BaseSettings):
    """Read from the variables that OpenTelemetry names, the same for each service."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", env_prefix="OTEL_")

    exporter_otlp_endpoint: str = Field(
        "",
        pattern="^(https?://[^/]+/?)?$",
        description="where traces are sent, such as http://HOST:4317; not set: no traces",
    )
    exporter_otlp_protocol: Literal["grpc"] = "grpc"
    exporter_otlp_headers: SecretStr | None = Field(
        None, description="comma-separated headers for the endpoint: authorization=Bearer%20…"
    )
    traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        "parentbased_always_on",
        description="which requests are traced; parentbased_…: the caller's `traceparent` decides, if there is one",
    )
    traces_sampler_arg: float = Field(1.0, ge=0, le=1, description="share of the requests to trace, for …traceidratio")
    service_name: str = Field("", description="the service's name in its traces; not set: gateway, retriever, …")
    instrumentation_genai_capture_message_content: bool = Field(
        False, description="traces also contain questions, queries, passages and answers"
    )


S = TypeVar("S", bound=BaseSettings)


def judge_key() -> str:
    """Returns the key of a judge's endpoint, empty where none is set. Raises Problem for one that cannot be used."""
    return secret("JUDGE_API_KEY")


def load(settings: type[S], argv: list[str] | None = None) -> S:
    """Returns the settings from flags and, below them, environment variables. Secrets may be in files.

    Exits with status 2 and a line for each variable that is missing or wrong. A variable whose name is nearly a
    setting's gets a warning.
    """
    prefix = settings.model_config.get("env_prefix", "")
    if settings is not TracingSettings:  # OpenTelemetry's libraries read variables of their own
        _warn_of_misspelt(settings, prefix)
    try:
        in_files: dict[str, Any] = {
            name: value for name in _secrets(settings) if (value := secret(f"{prefix}{name}".upper()))
        }
        return CliApp.run(settings, cli_args=argv if argv is not None else sys.argv[1:], **in_files)
    except Problem as unusable:
        print(unusable, file=sys.stderr)
        raise SystemExit(2) from None
    except ValidationError as error:
        for problem in error.errors():
            field, *keys = problem["loc"] or ("settings",)
            name = prefix + str(field).upper() + "".join(f"[{key}]" for key in keys)
            print(f"{name}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        raise SystemExit(2) from None
    except SettingsError as error:  # a variable or flag that should be JSON; only the text says which
        words = str(error).replace('"', " ").replace(":", " ").split()
        field = next((word for word in words if word in settings.model_fields), "")
        print(f"{prefix}{field.upper()}: not valid JSON", file=sys.stderr)
        raise SystemExit(2) from None


def _warn_of_misspelt(settings: type[BaseSettings], prefix: str) -> None:
    """Prints a line for each variable that is set, is no setting and is spelt almost like one."""
    names = [name.upper() for name in settings.model_fields]
    known = {prefix + name for name in (*names, *(f"{name}_FILE".upper() for name in _secrets(settings)))}
    for variable, value in os.environ.items():
        if value and variable.startswith(prefix) and variable not in known:
            for near in get_close_matches(variable.removeprefix(prefix), names, 1, 0.8):
                print(f"warning: {variable} is not a setting; did you mean {prefix}{near}?", file=sys.stderr)


def _secrets(settings: type[BaseSettings]) -> Iterator[str]:
    """Yields the names of the fields that hold a secret."""
    for name, field in settings.model_fields.items():
        if SecretStr in (field.annotation, *get_args(field.annotation)):
            yield name
