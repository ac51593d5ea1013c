"""A request as a value: what is sent, and how the answer is read. Nothing here touches a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from common.lines import EventStream
from search_agent_client.decode import Mismatch, decode
from search_agent_client.errors import GatewayProblem, UnexpectedAnswer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """`path` is below the gateway's address. A body of None sends none; values of None are left out of it.

    `blocks` are a body of JSON lines instead, which are sent as they are produced. The answer may come `patience_s`
    seconds later than others.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    blocks: Iterable[bytes] | None = None
    patience_s: float = 0.0

    @property
    def given(self) -> dict[str, Any] | None:
        """The body without the fields that take the gateway's defaults."""
        return None if self.body is None else {name: value for name, value in self.body.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """A request whose answer is a `kind`. `also` are statuses of 400 and above that are answers and not problems."""

    sent: Sent
    kind: type[T]
    also: frozenset[int] = frozenset()

    def read(self, status: int, headers: Mapping[str, str], content: bytes) -> T:
        """Returns the answer's value. Raises GatewayProblem, UnexpectedAnswer."""
        if status not in self.also:
            check(self.sent, status, headers, content)
        return _read(self.sent, self.kind, content)


@dataclass(frozen=True, slots=True)
class Stream(Generic[T]):
    """A request whose answer is Server-Sent Events: the type of each by name, and whether one is the last.

    `endless` streams may be silent for as long as they like.
    """

    sent: Sent
    kinds: Mapping[str, type]
    is_last: Callable[[T], bool]
    endless: bool = False

    def reader(self) -> Reader[T]:
        return Reader(self)


class Reader(Generic[T]):
    """Reads the chunks of one stream."""

    def __init__(self, stream: Stream[T]) -> None:
        self._stream, self._events, self._ended = stream, EventStream(), False

    def feed(self, chunk: bytes) -> Iterator[T]:
        """Yields the events that `chunk` completes; those of unknown names are left out, as a newer gateway may send.

        Raises GatewayProblem for the event `error`, UnexpectedAnswer.
        """
        sent = self._stream.sent
        for name, data in self._events.feed(chunk):
            if name == "error":
                body = _read(sent, dict, data.encode())
                raise GatewayProblem(int(body.get("status", 500)), body)
            if kind := self._stream.kinds.get(name):
                event: Any = _read(sent, kind, data.encode())
                self._ended = self._stream.is_last(event)
                yield event

    def end(self) -> None:
        """Raises UnexpectedAnswer if the stream ended before its last event."""
        if not self._ended:
            raise UnexpectedAnswer(f"{self._stream.sent.path}: the answer broke off")


def check(sent: Sent, status: int, headers: Mapping[str, str], content: bytes) -> None:
    """Raises GatewayProblem or UnexpectedAnswer if the status is no success."""
    if status >= 400:
        after = headers.get("retry-after", "")
        body = _problem(content)
        precise = body.get("retry_after_s")  # the header has whole seconds
        seconds = precise if isinstance(precise, float) else float(after) if after.isdecimal() else None
        raise GatewayProblem(status, body, seconds)
    if status >= 300:
        where = headers.get("location", "elsewhere")
        raise UnexpectedAnswer(f"{sent.path}: status {status} sends us to {where}; give that address instead")


def _problem(content: bytes) -> Mapping[str, Any]:
    """Returns the body of a problem, or the beginning of another server's page."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    return body if isinstance(body, dict) else {"detail": " ".join(content.decode("utf-8", "replace").split())[:500]}


def _read(sent: Sent, kind: type[T], content: bytes) -> T:
    try:
        return decode(kind, json.loads(content))
    except Mismatch as error:
        reason = str(error)
    except ValueError:
        reason = "the answer is not JSON"
    raise UnexpectedAnswer(f"{sent.path}: {reason}: another server than our gateway, or one of another version")
