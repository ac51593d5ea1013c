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
        self._replicas = replicas
        self._number = zlib.crc32(begins_with.encode()) if len(replicas) > 1 else 0
        self._may_move = True
        home = replicas[self._number % len(replicas)]
        self.replica = self._another(home) if home.is_away else home

    def move(self, error: BoundaryError) -> None:
        """Passes a call that failed with `error` on to another replica, once. Raises `error` if that is of no use."""
        failed = self.replica
        if error.failure is Failure.UNAVAILABLE and self._may_move:
            self.replica, self._may_move = self._another(failed), False
        if self.replica is failed:
            raise error

    def _another(self, than: R) -> R:
        """Returns another replica that may be called, or the same one if there is none."""
        others = [each for each in self._replicas if each is not than and not each.is_away]
        return others[self._number % len(others)] if others else than
