"""Failures, one class per boundary. A failure never becomes text, an empty answer or a reward."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Failure(StrEnum):
    """Kinds of failure, the same at every boundary and on every transport."""

    INVALID = "invalid"  # the request is wrong; trying again is useless
    TOO_LONG = "too_long"  # the prompt does not fit the model's context; a shorter one does
    NOT_FOUND = "not_found"
    UNSUPPORTED = "unsupported"  # this backend cannot do that
    OVERLOADED = "overloaded"  # try again later
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    BROKEN = "broken"  # the backend's answer is unusable


class BoundaryError(Exception):
    """A failed call across a boundary. `field` names the request's field if the request is at fault.

    `excess` is the length of a prompt that is TOO_LONG divided by the room for it, 0.0 if the model does not say.
    """

    boundary: ClassVar[str]

    def __init__(self, failure: Failure, message: str, field: str = "", excess: float = 0.0) -> None:
        super().__init__(failure, message, field, excess)  # pickle restores it from these
        self.failure = failure
        self.message = message
        self.field = field
        self.excess = excess

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class RetrieverError(BoundaryError):
    boundary = "retriever"


class SearcherError(BoundaryError):
    boundary = "searcher"


class GeneratorError(BoundaryError):
    boundary = "generator"


class JudgeError(BoundaryError):
    boundary = "judge"


class GuardError(BoundaryError):
    """The guard refused, or a required guard did not answer."""

    boundary = "guard"


class CacheError(BoundaryError):
    boundary = "cache"


class TrainerError(BoundaryError):
    boundary = "trainer"


class KeysError(BoundaryError):
    """The store of API keys and of their usage."""

    boundary = "keys"
