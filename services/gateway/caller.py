"""Who sends the request being served, and what they may do."""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from common.keys import Key, Limits, Scope
from services.gateway.problems import Problem, Refused


class Forbidden(Refused):
    """The caller is known, and may not do this. `missing` names the scope or the index that the key lacks."""

    status = HTTPStatus.FORBIDDEN

    def __init__(self, detail: str, **missing: Any) -> None:
        super().__init__(detail)
        self.missing = missing

    def problem(self) -> Problem:
        return Problem(self.status, str(self), more=self.missing)


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key. Without `indexes` they may use every index. No judge reads what is asked `is_private`."""

    id: str
    scopes: frozenset[Scope]
    indexes: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    is_private: bool = False

    @classmethod
    def of(cls, key: Key) -> Caller:
        """Returns the holder of the key."""
        return cls(key.id, frozenset(key.scopes), key.indexes, key.limits)

    def check_scope(self, allowed: Collection[Scope]) -> None:
        """Raises Forbidden without one of the scopes; `admin` allows everything."""
        if not self.scopes & {*allowed, Scope.ADMIN}:
            needed = sorted({*allowed, Scope.ADMIN})
            has = ", ".join(sorted(self.scopes)) or "none"
            raise Forbidden(
                f"the route needs the scope {' or '.join(needed)}; this key has {has}", missing_scope=needed
            )

    def may_use(self, index: str) -> bool:
        """Returns whether the key is for the index of that name."""
        return not self.indexes or index in self.indexes

    def check_index(self, index: str) -> None:
        """Raises Forbidden for an index that the key is not for."""
        if not self.may_use(index):
            raise Forbidden(
                f"this key may not use the index {index!r}; it may use {', '.join(self.indexes)}", missing_index=index
            )

    def may_manage(self, indexes: Collection[str]) -> bool:
        """Returns whether a key for these indexes, or without any for all, opens none that this key does not."""
        return not self.indexes or (bool(indexes) and all(map(self.may_use, indexes)))


ANYBODY = Caller("anybody", frozenset(Scope))  # where no key is asked for
_current: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)


def set_current(caller: Caller) -> None:
    """Notes who sends the request being served; tasks that it starts inherit that."""
    _current.set(caller)


def current() -> Caller:
    """Returns who sends the request being served."""
    return _current.get()
