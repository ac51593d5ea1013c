"""Several services that hold the same model: which of them takes a call."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from search_agent.errors import BoundaryError, Failure


class Replica(Protocol):
    @property
    def is_away(self) -> bool:
        """Whether it keeps failing, so that a call would be refused now."""
        ...


R = TypeVar("R", bound=Replica)


class Choice(Generic[R]):
    """The replica that takes a call, and another one if it cannot be reached.

    A conversation stays at one replica, whose prefix cache has its earlier turns, for as long as the replica can be
    reached: the text that it begins with decides. A replica's conversations are spread over all others while it is
    away.
    """

    def __init__(self, replicas: Sequence[R], begins_with: str) -> None:
        self._left = list(replicas)  # in the order in which they are asked
        if len(replicas) > 1:
            number, place = divmod(zlib.crc32(begins_with.encode()), len(replicas))
            others = [*replicas[:place], *replicas[place + 1 :]]
            first = number % len(others)
            self._left = [replicas[place], *others[first:], *others[:first]]
        home = self._left[0]
        self.replica = self._next() or home

    def move(self, error: BoundaryError) -> None:
        """Passes a call that failed with `error` on to another replica. Raises `error` if that is of no use."""
        another = self._next() if error.failure is Failure.UNAVAILABLE else None
        if another is None:
            raise error
        self.replica = another

    def _next(self) -> R | None:
        """Returns the next replica that may be called, None if there is none."""
        while self._left:
            replica = self._left.pop(0)
            if not replica.is_away:
                return replica
        return None
