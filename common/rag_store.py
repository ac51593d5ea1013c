"""Naive-RAG results in Redis, and the scores that training compares with: what is stored and where."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import redis.asyncio as redis
from redis.exceptions import RedisError

from common import stored
from search_agent.errors import CacheError, Failure
from search_agent.rag_cache import PREFIX
from search_agent.types import Timings, Trajectory

_SCORED = ":scored"  # appended to a result's key
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Contents:
    """How many results there are, and how many of them are scored."""

    results: int = 0
    scored: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """What a result is worth for a question. `scoring` and `judge` are what it was graded with; scores are 0 to 1."""

    question: str
    golds: tuple[str, ...]
    scoring: str
    judge: dict[str, str] | None
    answer: str
    gen_acc: float
    span: float
    judged: bool | None
    exact_match: float
    f1: float

    def holds(self, golds: Sequence[str], scoring: str, judge: Mapping[str, str] | None) -> bool:
        """Whether grading with these would give the same score."""
        return (self.golds, self.scoring, self.judge) == (tuple(golds), scoring, judge)


@dataclass(frozen=True, slots=True)
class Scored:
    """A scored result under its digest; `result` and `score` are the JSON they are stored as."""

    key: str
    result: str
    question_id: str
    score: str


class RagStore:
    """Results and scores under RagKey's digests. Every method raises CacheError if Redis fails, and the
    constructor if `url` is not one of Redis.

    A result lives `ttl_s` seconds; one that is scored stays until it is cleared.
    """

    def __init__(self, url: str, ttl_s: int, timeout_s: float) -> None:
        try:
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                protocol=2,
                retry_on_error=[],
                decode_responses=True,
                encoding_errors="replace",  # a damaged value is a miss
            )
        except ValueError as error:
            raise CacheError(Failure.INVALID, f"not a Redis URL as redis://HOST:PORT/DB: {error}") from None
        self._ttl_s = ttl_s

    async def get(self, key: str) -> Trajectory | None:
        """Returns the result under a digest, None if there is none that can be read.

        Its times are zero, since nothing was waited for.
        """
        with _failures():
            found = await self._redis.get(key)
        result = stored.read(Trajectory, found) if found else None
        return replace(result, timings=Timings()) if result else None

    async def put(self, key: str, result: Trajectory) -> None:
        """Stores an answered trajectory; one that is scored stays with its score."""
        with _failures():
            scored = await self._redis.exists(key + _SCORED)
            await self._redis.set(key, json.dumps(asdict(result)), ex=None if scored else self._ttl_s)

    async def score(self, key: str, question_id: str, score: Score) -> bool:
        """Stores what a result is worth for a question, and keeps both for good.

        By the question's id, since two questions of one wording may have different gold answers. False if
        the result is not here.
        """
        with _failures():
            if not await self._redis.persist(key) and not await self._redis.exists(key):
                return False
            await self._redis.hset(key + _SCORED, question_id, json.dumps(asdict(score), ensure_ascii=False))
        return True

    async def score_of(self, key: str, question_id: str) -> Score | None:
        """Returns what `score` stored, None if nothing that can be read."""
        with _failures():
            found = await self._redis.hget(key + _SCORED, question_id)
        return stored.read(Score, found) if found else None

    async def contents(self) -> dict[tuple[str, str], Contents]:
        """Counts by index and version."""
        counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        async for keys in self._keys(PREFIX):
            for key in keys:
                parts = key.removeprefix(PREFIX).removesuffix(_SCORED).rsplit(":", 2)
                if len(parts) == 3:
                    counts[parts[0], parts[1]][key.endswith(_SCORED)] += 1
        return {name: Contents(*numbers) for name, numbers in counts.items()}

    async def clear(self, index: str, version: str = "") -> int:
        """Removes the results and scores of an index, of one version or of all; how many results."""
        removed = 0
        async for keys in self._keys(f"{PREFIX}{index}:{version}{':' if version else ''}"):
            with _failures():
                await self._redis.unlink(*keys)
            removed += sum(not key.endswith(_SCORED) for key in keys)
        return removed

    async def dump(self, index: str = "") -> AsyncIterator[Scored]:
        """Every scored result, of one index or of all."""
        async for keys in self._keys(f"{PREFIX}{index}{':' if index else ''}"):
            for key in (key.removesuffix(_SCORED) for key in keys if key.endswith(_SCORED)):
                with _failures():
                    result = await self._redis.get(key)
                    scores = await self._redis.hgetall(key + _SCORED)
                for question_id, score in scores.items() if result else ():
                    yield Scored(key, str(result), str(question_id), str(score))

    async def restore(self, rows: Sequence[Scored]) -> None:
        """Stores what `dump` gave, over what is there."""
        with _failures():
            async with self._redis.pipeline(transaction=True) as pipe:
                for row in rows:
                    pipe.set(row.key, row.result)
                    pipe.hset(row.key + _SCORED, row.question_id, row.score)
                await pipe.execute()

    async def check(self) -> None:
        """Raises CacheError if Redis does not answer."""
        with _failures():
            await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()

    async def _keys(self, prefix: str) -> AsyncIterator[list[str]]:
        """Keys that begin with `prefix`, in batches; SCAN may give a key twice, and this does not."""
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
        cursor, seen = 0, set[str]()
        while True:
            with _failures():
                cursor, found = await self._redis.scan(cursor, match=pattern, count=_BATCH)
            keys = [key for raw in found if (key := str(raw)) not in seen]
            seen.update(keys)
            if keys:
                yield keys
            if not cursor:
                return


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise CacheError(Failure.UNAVAILABLE, f"Redis does not answer: {error}") from error
