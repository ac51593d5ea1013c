"""The text of token ids that arrive a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_TORN = "\ufffd"  # how most tokenizers show the first bytes of a character


class Spelling:
    """Decodes ids piece by piece, up to a stop string, and holds back what may still become one."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode, self._stops = decode, stops
        self._ids: list[int] = []
        # A token's text may depend on the one before, so new ids are decoded after those decoded last.
        self._before = self._decoded = 0
        self._held = ""

    def add(self, ids: Sequence[int], last: bool) -> tuple[str, str]:
        """Returns the text that is certain by now, and the stop string that ends it, if one does."""
        self._ids += ids
        known, text = self._decode(self._ids[self._before : self._decoded]), self._decode(self._ids[self._before :])
        if last or (text != known and not text.endswith(_TORN)):  # some tokenizers drop a character's first bytes
            self._held += text[len(known) :]
            self._before, self._decoded = self._decoded, len(self._ids)
        found = min((at, stop) for stop in ("", *self._stops) if (at := self._at(stop)) >= 0)
        certain = found[0] if last or found[1] else len(self._held) - self._kept()
        text, self._held = self._held[:certain], self._held[certain:]
        return text, found[1]

    def _at(self, stop: str) -> int:
        """Returns where a stop string is; the empty one is at the end."""
        return self._held.find(stop) if stop else len(self._held)

    def _kept(self) -> int:
        """Returns the length of the longest end that begins a stop string."""
        longest = min(max(map(len, self._stops), default=1) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._begins(self._held[-n:])), 0)

    def _begins(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stops)
