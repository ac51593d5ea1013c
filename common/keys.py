"""API keys: what each one allows, and the stores that keep them. Only a key's SHA-256 is stored."""

from __future__ import annotations

import fcntl
import hmac
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from common import redis_client, stored
from common.files import write_whole
from common.redis_client import failures
from search_agent.errors import Failure, KeysError

_PREFIX = "sa"  # a key is sa_ID_SECRET
_REDIS_HASH = "search-agent:keys"  # id -> record; it never expires, so that Redis never evicts it
_REDIS_URLS = ("redis://", "rediss://", "unix://")


class Scope(StrEnum):
    """A permission of a key. ADMIN permits everything."""

    ASK = "ask"
    INDEX = "index"
    EVALUATE = "evaluate"
    TRAIN = "train"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a key may use. 0 is no limit; None leaves the choice to the gateway's settings."""

    requests_per_minute: int | None = None
    questions_at_once: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored. `digest` is the SHA-256 of the whole key in hex. No `indexes` means every index."""

    id: str
    name: str
    digest: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None = None
    indexes: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def is_opened_by(self, secret: str, now: datetime) -> bool:
        """Returns whether `secret` is this key and has not expired. Takes the same time for every wrong secret."""
        same = hmac.compare_digest(self.digest, _digest(secret))
        return same and (self.expires_at is None or now < self.expires_at)


def make(
    name: str,
    scopes: Sequence[Scope],
    indexes: Sequence[str] = (),
    lifetime: timedelta | None = None,
    limits: Limits | None = None,
) -> tuple[Key, str]:
    """Returns a new key as it is stored, and the secret, which is shown once and kept nowhere."""
    now = datetime.now(UTC).replace(microsecond=0)
    id = secrets.token_hex(6)
    secret = f"{_PREFIX}_{id}_{secrets.token_urlsafe(32)}"
    expires_at = now + lifetime if lifetime else None
    key = Key(id, name, _digest(secret), tuple(scopes), now, expires_at, tuple(indexes), limits or Limits())
    return key, secret


def id_of(secret: str) -> str:
    """Returns the id of the key that the secret claims to be, or "" if it does not have the form of a key."""
    prefix, _, rest = secret.partition("_")
    id, _, random = rest.partition("_")
    return id if prefix == _PREFIX and random else ""


def _digest(secret: str) -> str:
    # A fast hash is enough: a key has 256 random bits, so that nobody can try them out.
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class KeyStore(Protocol):
    """Keeps keys by id. Every method raises KeysError; a damaged record counts as missing."""

    async def get(self, id: str) -> Key | None: ...

    async def all(self) -> list[Key]:
        """Returns every key, oldest first."""
        ...

    async def add(self, key: Key) -> None: ...

    async def remove(self, id: str) -> bool:
        """Revokes a key at once. Returns whether it was there."""
        ...

    async def close(self) -> None: ...


def open_store(where: str, timeout_s: float) -> KeyStore:
    """Returns the store at a Redis URL or in a file. Raises KeysError."""
    return RedisKeys(where, timeout_s) if where.startswith(_REDIS_URLS) else FileKeys(Path(where))


class RedisKeys:
    """Keys in Redis, which several gateways share. A revoked key is refused by all of them at once."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._redis = redis_client.connect(url, timeout_s, KeysError)

    async def get(self, id: str) -> Key | None:
        with failures(KeysError):
            found = await self._redis.hget(_REDIS_HASH, id)
        return stored.read(Key, found) if found else None

    async def all(self) -> list[Key]:
        with failures(KeysError):
            found = await self._redis.hgetall(_REDIS_HASH)
        return _in_order(stored.read(Key, record) for record in found.values())

    async def add(self, key: Key) -> None:
        with failures(KeysError):
            await self._redis.hset(_REDIS_HASH, key.id, _record(key))

    async def remove(self, id: str) -> bool:
        with failures(KeysError):
            return bool(await self._redis.hdel(_REDIS_HASH, id))

    async def close(self) -> None:
        await self._redis.aclose()


class FileKeys:
    """Keys in a JSON file, one record per id. The file is read again whenever anyone has changed it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._keys: dict[str, Key] = {}

    async def get(self, id: str) -> Key | None:
        return self._read().get(id)

    async def all(self) -> list[Key]:
        return _in_order(self._read().values())

    async def add(self, key: Key) -> None:
        with self._changing() as records:
            records[key.id] = json.loads(_record(key))

    async def remove(self, id: str) -> bool:
        with self._changing() as records:
            return records.pop(id, None) is not None

    async def close(self) -> None:
        """Holds nothing open."""

    def _read(self) -> dict[str, Key]:
        try:
            there = self._path.stat()
            seen = (there.st_mtime_ns, there.st_size, there.st_ino)
            if seen != self._seen:
                read = {id: stored.read(Key, json.dumps(record)) for id, record in self._records().items()}
                self._keys = {id: key for id, key in read.items() if key}
                self._seen = seen
        except FileNotFoundError:
            self._keys, self._seen = {}, ()
        except OSError as error:
            raise KeysError(Failure.UNAVAILABLE, f"the file of keys cannot be read: {error.strerror}") from error
        return self._keys

    def _records(self) -> dict[str, object]:
        try:
            records = json.loads(self._path.read_text(encoding="utf-8") or "{}")
        except ValueError as error:
            raise KeysError(Failure.BROKEN, f"the file of keys is damaged: {error}") from None
        if not isinstance(records, dict):
            raise KeysError(Failure.BROKEN, "the file of keys is damaged: it must hold a JSON object")
        return records

    @contextmanager
    def _changing(self) -> Iterator[dict[str, object]]:
        """Yields the records, and writes them back if they were changed. Other processes wait meanwhile."""
        try:
            with self._path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                records = self._records() if self._path.exists() else {}
                before = dict(records)
                yield records
                if records != before:
                    write_whole(self._path, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise KeysError(Failure.UNAVAILABLE, f"the file of keys cannot be changed: {error.strerror}") from error


def _record(key: Key) -> str:
    return json.dumps(asdict(key), default=datetime.isoformat, ensure_ascii=False)


def _in_order(keys: Iterable[Key | None]) -> list[Key]:
    return sorted((key for key in keys if key), key=lambda key: (key.created_at, key.id))
