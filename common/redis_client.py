"""Redis as every store of ours uses it: bounded waits, and failures typed by boundary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis.asyncio as redis
from redis.exceptions import AuthenticationError, ConnectionError, RedisError, TimeoutError

from search_agent.errors import BoundaryError, Failure

_SAID = {
    AuthenticationError: "it refuses the password",
    TimeoutError: "it did not answer in time",
    ConnectionError: "it cannot be reached",  # redis-py's text for these holds the address
    OSError: "it cannot be reached",
}


def connect(url: str, timeout_s: float, boundary: type[BoundaryError]) -> redis.Redis:
    """Returns a client that never waits longer than `timeout_s`. Raises `boundary` if `url` is not a Redis URL."""
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            protocol=2,
            retry_on_error=[],
            decode_responses=True,
            encoding_errors="replace",  # a damaged value is a miss
        )
    except ValueError as error:
        raise boundary(Failure.INVALID, f"not a Redis URL such as redis://HOST:PORT/DB: {error}") from None


@contextmanager
def failures(boundary: type[BoundaryError]) -> Iterator[None]:
    """Raises `boundary` for whatever Redis fails with. The message holds no address."""
    try:
        yield
    except (RedisError, OSError) as error:
        said = next((text for kind, text in _SAID.items() if isinstance(error, kind)), str(error))
        raise boundary(Failure.UNAVAILABLE, f"Redis does not answer: {said}") from error
