"""Naive-RAG results in Redis, with the scores that training compares against."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from common import redis_client, stored
from common.redis_client import failures
from search_agent.errors import CacheError
from search_agent.rag_cache import PREFIX
from search_agent.types import Timings, Trajectory

_SCORED = ":scored"  # appended to a result's key
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Contents:
    """Counts of results, and of those that are scored."""

    results: int = 0
    scored: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a result for one question, from 0.0 to 1.0. `scoring` and `judge` say how it was graded."""

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
        """Returns whether the score was graded with these."""
        return (self.golds, self.scoring, self.judge) == (tuple(golds), scoring, judge)


@dataclass(frozen=True, slots=True)
class Scored:
    """A scored result. `key` is its digest; `result` and `score` are the stored JSON."""

    key: str
    result: str
    question_id: str
    score: str


class RagStore:
    """Stores results and scores by RagKey's digest.

    A result expires after `ttl_s` seconds; a scored one stays until it is cleared. Every method raises CacheError if
    Redis fails, and so does the constructor if `url` is not a Redis URL.
    """

    def __init__(self, url: str, ttl_s: int, timeout_s: float) -> None:
        self._redis = redis_client.connect(url, timeout_s, CacheError)
        self._ttl_s = ttl_s

    async def get(self, key: str) -> Trajectory | None:
        """Returns the result under a digest, or None if there is none or it cannot be read.

        Its times are zero, because nothing was waited for.
        """
        with failures(CacheError):
            found = await self._redis.get(key)
        result = stored.read(Trajectory, found) if found else None
        return replace(result, timings=Timings()) if result else None

    async def put(self, key: str, result: Trajectory) -> None:
        """Stores an answered trajectory. It expires unless it is scored."""
        with failures(CacheError):
            scored = await self._redis.exists(key + _SCORED)
            await self._redis.set(key, json.dumps(asdict(result)), ex=None if scored else self._ttl_s)

    async def score(self, key: str, question_id: str, score: Score) -> bool:
        """Stores the score of a result for a question and keeps both for good. Returns False if there is no result.

        Scores go by question id, because questions with the same text may have different gold answers.
        """
        with failures(CacheError):
            if not await self._redis.persist(key) and not await self._redis.exists(key):
                return False
            await self._redis.hset(key + _SCORED, question_id, json.dumps(asdict(score), ensure_ascii=False))
        return True

    async def score_of(self, key: str, question_id: str) -> Score | None:
        """Returns the stored score, or None if there is none or it cannot be read."""
        with failures(CacheError):
            found = await self._redis.hget(key + _SCORED, question_id)
        return stored.read(Score, found) if found else None

    async def contents(self) -> dict[tuple[str, str], Contents]:
        """Returns the counts by index and version."""
        counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        async for keys in self._keys(PREFIX):
            for key in keys:
                parts = key.removeprefix(PREFIX).removesuffix(_SCORED).rsplit(":", 2)
                if len(parts) == 3:
                    counts[parts[0], parts[1]][key.endswith(_SCORED)] += 1
        return {name: Contents(*numbers) for name, numbers in counts.items()}

    async def clear(self, index: str, version: str = "") -> int:
        """Removes an index's results and scores, of one version or of all. Returns the number of results."""
        removed = 0
        async for keys in self._keys(f"{PREFIX}{index}:{version}{':' if version else ''}"):
            with failures(CacheError):
                await self._redis.unlink(*keys)
            removed += sum(not key.endswith(_SCORED) for key in keys)
        return removed

    async def dump(self, index: str = "") -> AsyncIterator[Scored]:
        """Yields every scored result of one index, or of all."""
        async for keys in self._keys(f"{PREFIX}{index}{':' if index else ''}"):
            for key in (key.removesuffix(_SCORED) for key in keys if key.endswith(_SCORED)):
                with failures(CacheError):
                    result = await self._redis.get(key)
                    scores = await self._redis.hgetall(key + _SCORED)
                for question_id, score in scores.items() if result else ():
                    yield Scored(key, str(result), str(question_id), str(score))

    async def restore(self, rows: Sequence[Scored]) -> None:
        """Stores what `dump` yielded. Replaces what is there."""
        with failures(CacheError):
            async with self._redis.pipeline(transaction=True) as pipe:
                for row in rows:
                    pipe.set(row.key, row.result)
                    pipe.hset(row.key + _SCORED, row.question_id, row.score)
                await pipe.execute()

    async def check(self) -> None:
        """Raises CacheError if Redis does not answer."""
        with failures(CacheError):
            await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()

    async def _keys(self, prefix: str) -> AsyncIterator[list[str]]:
        """Yields the keys that begin with `prefix` in batches, each key once. SCAN may repeat keys."""
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
        cursor, seen = 0, set[str]()
        while True:
            with failures(CacheError):
                cursor, found = await self._redis.scan(cursor, match=pattern, count=_BATCH)
            keys = [key for raw in found if (key := str(raw)) not in seen]
            seen.update(keys)
            if keys:
                yield keys
            if not cursor:
                return
