"""Admits requests that should end in time, and tells all others when to come again."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile

from common import context, metrics
from search_agent.errors import BoundaryError, Failure
from services.gateway.pace import ALONE, Pace
from services.gateway.problems import TooBusy, TooLittleTime

_PROMPT_S = 1.0  # an answer within it is never too slow, however fast it would be alone
_STALE_S = 60.0  # a kind that has not been timed for so long may have become faster
_ALONE_EVERY_S = 600.0  # a busy gateway lets one request run alone this often, to learn its time again
_LATE_S = 1.5  # a place is kept for so long; Retry-After has whole seconds, and callers take some time to come
_SOON = 0.25  # a place that becomes free is kept for who comes before this share of a request's time is over
_AFTER = 0.03  # callers are told to come so much after the place should be free, and more when they come again
_PROMISES = 1000
_RATE = 0.1  # the weight of the newest promise in the share of those that are taken up
_RETURNS = 2  # callers who came again so often are alike
_OVERDUE = 0.1  # what a request that takes longer than expected still needs, in units of what was expected


_Kind = tuple[str, str, int]  # the work, the index that it searches, and the size as a power of two


@dataclass(slots=True, eq=False)
class _Promise:
    """A request that was refused was told to come when it is `due`. It did so `returns` times and found no place.

    One that `is_alone` would be late beside another.
    """

    due: float
    returns: int = 0
    is_alone: bool = False


@dataclass(slots=True, eq=False)
class _Work:
    """A request under way. `area` is the number of request-seconds before it started.

    Work to spare has a function that ends it.
    """

    kind: _Kind
    started: float
    area: float
    give_up: Callable[[], object] | None = None


class Capacity:
    """Decides which requests a group of backends takes on, by what they need and by what is under way.

    A request is admitted if it should take at most `slowdown` times as long as alone, or a second, and if it should end
    before the time of the request being served is over. Nothing waits here: callers who are refused wait, each for a
    time of their own, in the order of their first refusal. Places are kept for as many of them as should come, by the
    share that has come so far, so that callers who never come again cost little. A caller who came at the
    time that they were told and found no place gets the next one.
    """

    def __init__(
        self,
        most: int,
        slowdown: float = 2.0,
        first_s: float = 5.0,
        first_at_once: int = 4,
        clock: Callable[[], float] = time.monotonic,
        time_left: Callable[[float], float] = context.time_left,
    ) -> None:
        """`most` requests may be under way, whatever was measured.

        `first_s` and `first_at_once` stand in for what has not been measured yet.
        """
        self._most, self._slowdown, self._clock = most, slowdown, clock
        self._time_left = time_left
        self._pace = Pace(first_s, first_at_once)
        self._under_way: set[_Work] = set()
        self._promises: dict[Hashable, _Promise] = {}  # in the order of the first refusals
        self._coming = [1.0] * (_RETURNS + 1)  # the share of them that comes, by how often it has come before
        self._area, self._area_at = 0.0, clock()  # request-seconds so far, and until when they are counted
        self._alone_at = -math.inf  # when a request last ran alone
        self._clears = False  # nothing is admitted until a request can run alone

    @contextmanager
    def work(self, name: str, who: Hashable, size: int = 1, index: str = "") -> Iterator[None]:
        """Holds a place for a request while it is worked on.

        Requests of a name and a like size that search the same index take equally long. `who` is equal for a
        request that comes again after it was refused. Raises TooBusy and TooLittleTime.
        """
        kind = (name, index, size.bit_length())
        self._admit(kind, who)
        metrics.ADMISSIONS.labels(name, "admitted").inc()
        metrics.ADMISSION_WAIT_SECONDS.labels(name).set(0)
        with self._hold(kind):
            yield

    @contextmanager
    def spare(self, name: str, give_up: Callable[[], object]) -> Iterator[None]:
        """Holds a place for work that nobody waits for, if that leaves room for a request.

        `give_up` is called when a request needs the place. Raises TooBusy, and promises no place.
        """
        kind, now = (name, "", 1), self._clock()
        self._forget_late(kind, now)
        if len(self._under_way) + self._reserved(None, kind, now) + 1 >= self._at_once(kind):
            metrics.ADMISSIONS.labels(name, "refused").inc()
            raise TooBusy("there is no room to spare", self._pace.alone(kind))
        metrics.ADMISSIONS.labels(name, "admitted").inc()
        with self._hold(kind, give_up):
            yield

    @contextmanager
    def _hold(self, kind: _Kind, give_up: Callable[[], object] | None = None) -> Iterator[None]:
        now = self._count()
        work = _Work(kind, now, self._area, give_up)
        self._under_way.add(work)
        has_time = False
        try:
            yield
            has_time = True
        except BoundaryError as error:
            has_time = error.failure is Failure.TIMEOUT  # it takes so long at least
            raise
        finally:
            now = self._count()
            self._under_way.discard(work)
            if has_time:
                self._learn(work, now)

    def _admit(self, kind: _Kind, who: Hashable) -> None:
        now, pace = self._clock(), self._pace
        left_s = self._time_left(math.inf)
        if pace.fastest(kind) > left_s and now - pace.timed_at(kind) < _STALE_S:
            metrics.ADMISSIONS.labels(kind[0], "hopeless").inc()
            raise TooLittleTime(
                f"it has {left_s:.3g} s, and takes about {pace.alone(kind):.3g} s where nothing else is under way"
            )
        self._forget_late(kind, now)
        mine = self._promises.get(who)
        is_in_time = bool(mine and mine.due <= now)
        if mine and is_in_time:
            self._learn_return(mine, came=True)
        at_once, reserved = self._at_once(kind, left_s), self._reserved(mine, kind, now)
        self._clear_spare(at_once - 1 - reserved)
        under_way = len(self._under_way)
        if under_way + reserved < at_once:
            self._promises.pop(who, None)
            return
        if mine and is_in_time:
            mine.returns += 1
        self._clears |= under_way < self._most and now - self._alone_at > _ALONE_EVERY_S
        wait_s = self._promise(kind, who, at_once, now)
        metrics.ADMISSIONS.labels(kind[0], "refused").inc()
        metrics.ADMISSION_WAIT_SECONDS.labels(kind[0]).set(wait_s)
        raise TooBusy(f"{under_way} requests are under way; there should be room in {wait_s:.2g} s", wait_s)

    def _at_once(self, kind: _Kind, left_s: float = math.inf) -> int:
        """Returns how many requests may be in progress, including one of the kind."""
        mean_s = max(self._slowdown * self._pace.alone(kind), _PROMPT_S)
        at_once = min(self._most, self._pace.at_once(kind, mean_s, left_s))
        metrics.ADMISSION_AT_ONCE.labels(kind[0]).set(at_once)
        return 1 if self._clears else at_once

    def _clear_spare(self, room: int) -> None:
        """Ends spare work that does not leave a place free out of `room`."""
        self._count()
        for work in [work for work in self._under_way if work.give_up]:
            if len(self._under_way) >= room and work.give_up:
                self._under_way.remove(work)
                work.give_up()

    def _forget_late(self, kind: _Kind, now: float) -> None:
        late_s = min(_LATE_S, self._pace.expected(kind, 0))
        for who in [who for who, each in self._promises.items() if each.due <= now - late_s]:
            self._learn_return(self._promises.pop(who), came=False)

    def _learn_return(self, promise: _Promise, came: bool) -> None:
        returns = min(promise.returns, _RETURNS)
        self._coming[returns] += _RATE * (came - self._coming[returns])

    def _likely(self, promises: Iterable[_Promise]) -> Iterator[_Promise]:
        """Yields as many of the promises as are likely to be taken up, spread evenly."""
        expected = 0.0
        for each in promises:
            before, expected = round(expected), expected + self._coming[min(each.returns, _RETURNS)]
            if round(expected) > before:
                yield each

    def _before(self, mine: _Promise | None) -> Iterator[_Promise]:
        """Returns the promises to those who were refused before the caller."""
        return takewhile(lambda each: each is not mine, self._promises.values())

    def _reserved(self, mine: _Promise | None, kind: _Kind, now: float) -> int:
        """Returns how many places are kept for those before the caller who should come about now.

        All are for one who has to run alone and came in vain: quicker requests would take its turn without end.
        """
        soon = now + _SOON * self._pace.expected(kind, max(0, len(self._under_way) - 1))
        coming = [*self._likely(each for each in self._before(mine) if each.returns or each.due < soon)]
        return self._most if any(each.returns and each.is_alone for each in coming) else len(coming)

    def _promise(self, kind: _Kind, who: Hashable, at_once: int, now: float) -> float:
        """Returns the seconds after which there should be room, behind those who were refused before."""
        ends = [self._end(work, now) for work in self._under_way] or [now]
        heapq.heapify(ends)
        for _ in range(len(ends) - at_once):  # these ends make no room yet
            heapq.heappop(ends)
        for _ in range(at_once - len(ends)):  # free places that are kept for others
            heapq.heappush(ends, now)
        takes_s, mine = self._pace.expected(kind, at_once - 1), self._promises.get(who)
        for each in self._likely(self._before(mine)):
            # The machine is not left idle for long until one comes who was told a time when more were expected.
            heapq.heapreplace(ends, min(max(each.due, ends[0]), ends[0] + takes_s) + takes_s)
        if not self._pace.knows(kind):
            return min(self._pace.alone(kind), ends[0] - now)
        returns = min(mine.returns, _RETURNS) if mine else 0
        due = ends[0] + _AFTER * (1 + 2 * returns) * takes_s
        if mine:
            mine.due, mine.is_alone = due, at_once == 1
        elif len(self._promises) < _PROMISES:
            self._promises[who] = _Promise(due)
        return due - now

    def _end(self, work: _Work, now: float) -> float:
        takes_s = self._pace.expected(work.kind, len(self._under_way) - 1)
        return max(work.started + takes_s, now + _OVERDUE * takes_s)

    def _count(self) -> float:
        """Counts the request-seconds until now, which it returns."""
        now = self._clock()
        self._area += len(self._under_way) * (now - self._area_at)
        self._area_at = now
        return now

    def _learn(self, work: _Work, now: float) -> None:
        seconds = now - work.started
        others = max(0.0, (self._area - work.area) / seconds - 1) if seconds > 0 else 0.0
        self._pace.observe(work.kind, seconds, others, now)
        if others < ALONE:
            self._alone_at, self._clears = now, False
