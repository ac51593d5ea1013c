"""Shows which service a batch command waits for, why, and until when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

_EVERY_S = 30.0  # between two lines where nothing can be overwritten


class Display(Protocol):
    def wait(self, service: str, why: str, left_s: float) -> None:
        """Shows that calls of a service fail, and that they are repeated for `left_s` more seconds."""

    def end(self, service: str) -> None:
        """Shows that a service is no longer waited for: it answers, or its callers have given up."""


class Lines:
    """Says a line for each service at most every 30 seconds, and one at the end of a wait that was said."""

    def __init__(self, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._said_at: dict[str, float] = {}
        self._waited_for: set[str] = set()  # by the last line

    def wait(self, service: str, why: str, left_s: float) -> None:
        now = self._clock()
        if service not in self._said_at or now - self._said_at[service] >= _EVERY_S:
            self._said_at[service] = now
            self._waited_for.add(service)
            self._say(_line(service, why, left_s))

    def end(self, service: str) -> None:
        if service in self._waited_for:
            self._waited_for.remove(service)
            self._say(f"no longer waiting for {service}")


class Renewed:
    """One line for each service, below the progress bar if there is one. It disappears at the end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bars: dict[str, tqdm[Any]] = {}

    def wait(self, service: str, why: str, left_s: float) -> None:
        if service not in self._bars:
            from tqdm import tqdm

            self._bars[service] = tqdm(bar_format="{desc}", leave=False, dynamic_ncols=True, file=self._out)
        self._bars[service].set_description_str(_line(service, why, left_s))

    def end(self, service: str) -> None:
        if service in self._bars:
            self._bars.pop(service).close()


def _log(line: str) -> None:
    import structlog  # late, because every command imports this module

    structlog.get_logger().warning(line)


_display: Display = Lines(_log)


def display() -> Display:
    """Returns where waiting is shown in this process: in the log, unless `shown` says otherwise."""
    return _display


@contextmanager
def shown(on: Display) -> Iterator[None]:
    """Shows waiting on a display."""
    global _display
    before, _display = _display, on
    try:
        yield
    finally:
        _display = before


def display_on(out: TextIO) -> Display:
    """Returns the display for a terminal, or for a pipe or file."""
    if out.isatty():
        return Renewed(out)

    def say(line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, out)  # on a line of its own, also where a bar is drawn
        out.flush()

    return Lines(say)


def _line(service: str, why: str, left_s: float) -> str:
    until = datetime.now() + timedelta(seconds=left_s)
    return f"waiting for {service} until {until:%H:%M:%S}: {' '.join(why.split())}"
