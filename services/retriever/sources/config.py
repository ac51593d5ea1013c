"""source.json: makes a folder an index that is a server. The folder's name is the index's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.addresses import model_at, split
from services.retriever import folders
from services.retriever.errors import IndexRefused

SOURCE = "source.json"


def _url(value: str) -> str:
    parts = urlsplit(value)  # raises ValueError for a bracket that does not close
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in value):
        raise ValueError("must be a URL, for example http://host:8000/retrieve")
    if parts.port == 0:  # raises ValueError for a port that is no number
        raise ValueError("port 0 cannot be used")
    if parts.username or parts.password:
        raise ValueError("holds a name or a password; put a key into key_file")
    return value


def _shard(value: str) -> str:
    split(model_at(value)[0])  # raises ValueError
    return value


class _Source(BaseModel):
    """Fields that all kinds share. `timeout_s` is for a query of SearXNG, or for a call with all its queries."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Below GATEWAY_RETRIEVER_TIMEOUT_S, so that a caller still hears which index failed.
    timeout_s: float = Field(8.0, gt=0, le=600)
    source: str = ""
    licence: str = ""


class _HttpSource(_Source):
    """A server at `url`. `key_file` holds a bearer token; a relative path starts at the folder."""

    url: Annotated[str, AfterValidator(_url)]
    key_file: str = ""

    @property
    def where(self) -> str:
        return self.url


class RetrieveConfig(_HttpSource):
    """A server that speaks /retrieve; `url` is the route's. With a `version`, its answers may be cached."""

    kind: Literal["retrieve"] = "retrieve"
    version: str = ""
    hints: ClassVar[Mapping[int, str]] = {}  # what to do about a status


class SearxngConfig(_HttpSource):
    """A SearXNG instance; `url` is its base. Values that are empty or None are the instance's own."""

    kind: Literal["searxng"] = "searxng"
    version: ClassVar[str] = ""  # the web changes
    hints: ClassVar[Mapping[int, str]] = {403: "its settings.yml must list json among search.formats"}
    engines: tuple[str, ...] = ()
    language: str = ""
    safesearch: int | None = Field(None, ge=0, le=2)
    pages: int = Field(3, ge=1, le=10)


class ShardsConfig(_Source):
    """Retrievers that hold an index in parts, each at HOST:PORT/INDEX, or at HOST:PORT with their default index."""

    kind: Literal["shards"] = "shards"
    version: ClassVar[str] = ""  # the shards tell it
    shards: Annotated[tuple[Annotated[str, AfterValidator(_shard)], ...], Field(min_length=1, strict=False)]

    @property
    def where(self) -> str:
        return ", ".join(self.shards)


HttpConfig = RetrieveConfig | SearxngConfig
Config = HttpConfig | ShardsConfig
_CONFIG: TypeAdapter[Config] = TypeAdapter(Annotated[Config, Field(discriminator="kind")])


def read(folder: Path) -> Config:
    """Returns the configuration of the index in `folder`. Raises IndexRefused, which names the file and the field."""
    path = folder / SOURCE
    try:
        return _CONFIG.validate_json(path.read_bytes())
    except OSError as error:
        raise IndexRefused(path, f"unreadable: {error.strerror}") from error
    except ValidationError as error:
        raise IndexRefused(path, _fault(error)) from None


def key_of(folder: Path, config: HttpConfig) -> str:
    """Returns the content of the key file, empty if there is none. Raises IndexRefused."""
    if not config.key_file:
        return ""
    try:
        key = (folder / config.key_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise IndexRefused(folder / SOURCE, f"key_file: {config.key_file}: {error.strerror}") from None
    except ValueError:
        key = ""
    if not (key.isascii() and key.isprintable() and key):
        raise IndexRefused(folder / SOURCE, f"key_file: {config.key_file}: it does not hold a key")
    return key


def connect(out: Path, name: str, fields: dict[str, Any], force: bool) -> Path:
    """Creates the folder of an index that is a server. Raises BuildRefused, and IndexRefused for a bad field."""
    try:
        config = _CONFIG.validate_json(json.dumps(fields))
    except ValidationError as error:
        raise IndexRefused(out / name, _fault(error)) from None
    if not isinstance(config, ShardsConfig):
        key_of(out / name, config)
    with folders.new_index(out, name, force) as work:
        folders.empty(work)  # of what a killed build left
        written = {"kind": config.kind, **config.model_dump(mode="json", exclude_defaults=True)}
        (work / SOURCE).write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return out / name


def _fault(error: ValidationError) -> str:
    """Returns the first fault as "field: message"."""
    fault = error.errors()[0]
    named = [str(part) for part in fault["loc"][1:]]  # the first part is the kind
    field = ".".join(named) or ("kind" if fault["type"].startswith("union_tag") else "")
    message = fault["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
