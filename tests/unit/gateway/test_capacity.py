"""Requests are admitted if they end in time; the others are told the truth about when to come again."""

import asyncio
import math
import random
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest

from search_agent.errors import Failure, GeneratorError
from services.gateway.capacity import Capacity
from services.gateway.problems import TooBusy, TooLittleTime


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer where another loop would wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None) -> Any:
            self._now += timeout or 0
            return select(0)

        selector.select = jump

    def time(self) -> float:
        return self._now


def run(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene)


def now() -> float:
    return asyncio.get_running_loop().time()


class Machine:
    """Does `slots` requests at full speed; more of them share it."""

    def __init__(self, slots: float, step_s: float = 0.005) -> None:
        self._slots, self._step_s, self._busy = slots, step_s, 0

    async def do(self, seconds: float) -> None:
        self._busy += 1
        try:
            while seconds > 0:
                began = now()
                await asyncio.sleep(self._step_s)
                seconds -= (now() - began) * min(1, self._slots / self._busy)
        finally:
            self._busy -= 1


@dataclass
class Told:
    """How callers fared: seconds until an answer and until a refusal, and waits as (told at first, until admitted)."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)


_KNOWN_S = 5.0  # before, callers are told what the gateway guesses


async def caller(capacity: Capacity, machine: Machine, seconds: float, until: float, told: Told) -> None:
    """Asks one question after the other until the time is over, and comes again when it was told to."""
    while now() < until:
        question, refused_at, wait_s = object(), math.inf, 0.0
        while True:
            began = now()
            try:
                with capacity.work("s3", question):
                    if _KNOWN_S < refused_at < math.inf:
                        told.waits.append((wait_s, began - refused_at))
                    await machine.do(seconds)
                told.answered.append(now() - began)
                break
            except TooBusy as busy:
                told.refused.append(now() - began)
                if refused_at == math.inf:
                    refused_at, wait_s = began, busy.wait_s
                await asyncio.sleep(busy.wait_s)


ALONE_S = 0.5


@pytest.mark.parametrize("callers", [1, 4, 32])
@pytest.mark.parametrize("slots", [1, 2, 8])
def test_callers_are_answered_in_twice_the_time_alone_or_told_when_to_come(callers: int, slots: float) -> None:
    told, lasts_s = Told(), 120 * ALONE_S

    async def scene() -> None:
        capacity, machine = Capacity(64, first_s=ALONE_S, first_at_once=2, clock=now), Machine(slots)
        await asyncio.gather(*[caller(capacity, machine, ALONE_S, now() + lasts_s, told) for _ in range(callers)])

    run(scene())
    answered = sorted(told.answered)
    assert answered[int(0.95 * (len(answered) - 1))] < 2.1 * ALONE_S
    assert len(answered) > 0.9 * lasts_s / ALONE_S * min(callers, slots)
    assert told.refused or callers <= 2 * slots
    true = [abs(waited / said - 1) < 0.25 for said, waited in told.waits]
    assert len(true) < 10 or sum(true) >= 0.7 * len(true)


@dataclass(frozen=True)
class Crowd:
    """Callers of a machine that is always asked for more than it can do.

    `strangers_a_second` ask one question and come again `again` times. `faithful` ones always come again when they were
    told to, and ask the next question after each answer. The `impatient` one asks every 100 ms.
    """

    faithful: int = 0
    strangers_a_second: float = 0.0
    again: float = 0
    impatient: bool = False


@pytest.mark.parametrize(
    "crowd",
    [
        pytest.param(Crowd(strangers_a_second=2), id="nobody comes again"),
        pytest.param(Crowd(strangers_a_second=2, faithful=5), id="few come again"),
        pytest.param(Crowd(strangers_a_second=2, again=1, faithful=5), id="most come again once"),
        pytest.param(Crowd(strangers_a_second=0.12, faithful=10), id="half come again"),
        pytest.param(Crowd(faithful=16), id="all come again"),
        pytest.param(Crowd(impatient=True, faithful=5), id="one is impatient"),
    ],
)
def test_the_machine_is_used_whoever_comes_again_and_who_does_has_a_place_at_the_second_return(crowd: Crowd) -> None:
    alone_s, lasts_s, rng = 4.0, 500.0, random.Random(1)
    took, returned = list[float](), list[int]()  # seconds of the admitted, and returns of the faithful

    async def scene() -> None:
        capacity, machine = Capacity(64, clock=now), Machine(1, step_s=0.1)

        async def ask(again: float = math.inf, every_s: float = 0.0) -> int:
            """Returns how often the question came again, when it was told to or `every_s`."""
            question, returns = object(), 0
            while True:
                began = now()
                try:
                    with capacity.work("s3", question):
                        await machine.do(alone_s)
                    took.append(now() - began)
                    return returns
                except TooBusy as busy:
                    if returns >= again:
                        return returns
                    returns += 1
                    await asyncio.sleep(every_s or busy.wait_s)

        async def faithful() -> None:
            await asyncio.sleep(rng.uniform(0, 10))
            while True:
                returned.append(await ask())

        async def impatient() -> None:
            while True:
                await ask(every_s=0.1)

        await ask()
        tasks = {asyncio.create_task(faithful()) for _ in range(crowd.faithful)}
        if crowd.impatient:
            tasks.add(asyncio.create_task(impatient()))
        while now() < lasts_s:
            rate = crowd.strangers_a_second
            await asyncio.sleep(min(rng.expovariate(rate) if rate else math.inf, lasts_s - now()))
            if rate:
                tasks.add(asyncio.create_task(ask(crowd.again)))
        for task in tasks:
            task.cancel()

    run(scene())
    assert len(took) * alone_s > 0.9 * lasts_s
    assert sorted(took)[int(0.95 * len(took))] < 2.1 * alone_s
    assert sum(returns <= 2 for returns in returned) >= 0.9 * len(returned)
    assert len(returned) >= crowd.faithful


def test_nobody_is_admitted_who_would_be_late() -> None:
    late, rng, refused, ends = list[float](), random.Random(1), 0, ContextVar("ends", default=math.inf)

    def left(most_s: float) -> float:
        return ends.get() - now()

    async def scene() -> None:
        capacity, machine = Capacity(64, slowdown=100, first_at_once=2, clock=now, time_left=left), Machine(1)

        async def ask(limit_s: float) -> None:
            nonlocal refused
            ends.set(now() + limit_s)
            try:
                with capacity.work("s3", object()):
                    await machine.do(rng.uniform(0.8, 1.2))
                late.append(now() - ends.get())
            except TooBusy:
                refused += 1

        await ask(9)
        tasks = []
        for _ in range(200):
            tasks.append(asyncio.create_task(ask(rng.choice([4, 8]))))
            await asyncio.sleep(0.3)
        await asyncio.gather(*tasks)

    run(scene())
    assert len(late) > 50
    assert refused > 50
    assert sum(each > 0 for each in late) <= 0.05 * len(late)


def test_what_cannot_end_in_time_is_refused_for_good() -> None:
    clock, left_s = Clock(), 9.0
    capacity = Capacity(8, clock=clock, time_left=lambda most_s: left_s)
    timed(capacity, clock, 4)
    left_s = 3
    with pytest.raises(TooLittleTime, match="it has 3 s, and takes about 4 s"), capacity.work("s3", object()):
        pass
    clock.now += 100  # the machine may have become faster
    timed(capacity, clock, 2)
    timed(capacity, clock, 2)


async def test_the_limit_holds_however_fast_requests_are() -> None:
    capacity = Capacity(2, first_at_once=2)
    with capacity.work("s3", 1), capacity.work("s3", 2), pytest.raises(TooBusy), capacity.work("s3", 3):
        pass


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed(capacity: Capacity, clock: Clock, seconds: float, error: Exception | None = None) -> None:
    """Lets a request take so many seconds."""
    with suppress(GeneratorError), capacity.work("s3", object()):
        clock.now += seconds
        if error:
            raise error


def wait_of_a_second(capacity: Capacity, clock: Clock) -> float:
    """Returns what one more request than there may be is told."""
    with ExitStack() as under_way:
        while True:
            try:
                under_way.enter_context(capacity.work("s3", object()))
            except TooBusy as busy:
                return busy.wait_s


def test_what_failed_teaches_nothing_and_a_timeout_does() -> None:
    clock = Clock()
    capacity = Capacity(1, clock=clock)
    timed(capacity, clock, 4)
    timed(capacity, clock, 0, GeneratorError(Failure.BROKEN, "broken"))
    assert wait_of_a_second(capacity, clock) == pytest.approx(4, rel=0.05)
    for _ in range(40):
        timed(capacity, clock, 8, GeneratorError(Failure.TIMEOUT, "late"))
    assert wait_of_a_second(capacity, clock) == pytest.approx(8, rel=0.05)


def test_who_comes_too_early_does_not_lengthen_the_line_and_comes_before_those_who_came_later() -> None:
    clock = Clock()
    capacity = Capacity(1, clock=clock)
    timed(capacity, clock, 4)

    def wait(who: str) -> float:
        with pytest.raises(TooBusy) as told, capacity.work("s3", who):
            pass
        return told.value.wait_s

    with capacity.work("s3", "now"):
        assert [round(wait(who)) for who in ("a", "b", "a", "a", "b", "c")] == [4, 8, 4, 4, 8, 12]
        clock.now += 4
    assert round(wait("walk-in")) == 12
    with capacity.work("s3", "a"):
        pass


def test_callers_who_never_come_again_do_not_lengthen_the_line_for_ever() -> None:
    clock = Clock()
    capacity = Capacity(1, clock=clock)
    timed(capacity, clock, 4)

    def wait() -> float:
        with pytest.raises(TooBusy) as told, capacity.work("s3", object()):
            pass
        return told.value.wait_s

    for _ in range(40):
        with capacity.work("s3", object()):
            wait()
            clock.now += 4
        clock.now += 4
    with capacity.work("s3", object()):
        assert max(wait() for _ in range(20)) < 12


def test_a_busy_machine_is_measured_alone_again() -> None:
    clock = Clock()
    capacity = Capacity(8, clock=clock)
    timed(capacity, clock, 4)
    under_way = [capacity.work("s3", n) for n in range(2)]
    for each in under_way:
        each.__enter__()
    clock.now += 700
    with pytest.raises(TooBusy), capacity.work("s3", 2):
        pass
    under_way[0].__exit__(None, None, None)
    with pytest.raises(TooBusy), capacity.work("s3", 3):  # although two may be under way
        pass
    under_way[1].__exit__(None, None, None)
    with capacity.work("s3", 2):
        clock.now += 4
    with capacity.work("s3", 3):
        clock.now += 4
    with capacity.work("s3", 4), capacity.work("s3", 5):
        pass


@contextmanager
def spare_work(capacity: Capacity) -> Iterator[list[str]]:
    """Holds a place to spare, and tells whether it was given up."""
    told: list[str] = []
    with capacity.spare("shadow", lambda: told.append("given up")):
        yield told


def test_who_has_to_run_alone_is_not_kept_out_by_quick_requests_without_end() -> None:
    """An outlier, such as a question that waited for a frozen service, leaves no slow one time to run beside others."""
    left_s: ContextVar[float] = ContextVar("left", default=math.inf)

    async def scene() -> None:
        capacity, machine = Capacity(64, clock=now, time_left=lambda _: left_s.get()), Machine(2)

        async def one(name: str, seconds: float, question: object) -> None:
            with capacity.work(name, question):
                await machine.do(seconds)

        async def quick() -> None:
            while True:
                with suppress(TooBusy):
                    await one("quick", 1, object())
                await asyncio.sleep(0.01)

        await one("slow", 3, object())
        await one("slow", 35, object())
        others = asyncio.create_task(quick())
        await asyncio.sleep(2.5)
        left_s.set(40)
        slow, until = object(), now() + 60
        while True:
            assert now() < until, "is never admitted"
            try:
                await one("slow", 3, slow)
                break
            except TooBusy as busy:
                await asyncio.sleep(busy.wait_s)
        others.cancel()

    run(scene())


def test_spare_work_leaves_room_for_a_request() -> None:
    capacity = Capacity(3, clock=Clock())
    with capacity.work("s3", 1):
        with spare_work(capacity), pytest.raises(TooBusy), spare_work(capacity):
            pass
        with capacity.work("s3", 2), pytest.raises(TooBusy), spare_work(capacity):
            pass


def test_spare_work_is_given_up_where_a_request_would_leave_no_more_room() -> None:
    capacity = Capacity(3, clock=Clock())
    with spare_work(capacity) as told, capacity.work("s3", 1):
        assert told == []
        with capacity.work("s3", 2):
            assert told == ["given up"]
            with capacity.work("s3", 3):
                pass
        assert told == ["given up"]


def test_spare_work_never_slows_a_machine_that_does_one_thing_at_a_time() -> None:
    clock = Clock()
    capacity = Capacity(64, clock=clock)
    timed(capacity, clock, 4)
    with spare_work(capacity) as told, capacity.work("s3", 1):
        assert told == ["given up"]


def test_refused_spare_work_is_promised_nothing() -> None:
    capacity = Capacity(1, clock=Clock())
    for _ in range(3):
        with pytest.raises(TooBusy), spare_work(capacity):
            pass
    with capacity.work("s3", 1):
        pass


def test_a_flood_of_callers_of_whom_few_come_again_is_not_waited_for_as_a_whole() -> None:
    alone_s = 4.0

    async def scene() -> None:
        capacity, machine = Capacity(1, clock=now), Machine(1, step_s=0.1)

        async def ask(question: object) -> float:
            """Returns the seconds that the caller is told to wait, 0.0 if they are answered."""
            try:
                with capacity.work("s3", question):
                    await machine.do(alone_s)
            except TooBusy as busy:
                return busy.wait_s
            return 0.0

        async def again(question: object, wait_s: float) -> None:
            await asyncio.sleep(wait_s)
            await ask(question)

        await ask("first")
        under_way = asyncio.create_task(ask("second"))
        await asyncio.sleep(0.1)
        flood = [await ask(number) for number in range(500)]
        assert max(flood) > 400 * alone_s  # all may come, by what is known then
        tasks = [asyncio.create_task(again(number, flood[number])) for number in range(0, 500, 5)]
        await under_way
        await asyncio.sleep(100 * alone_s)
        busy = asyncio.create_task(ask("third"))
        await asyncio.sleep(0.1)
        told = await ask("fourth")
        assert 0 < told < 0.4 * max(flood)  # 400 times are to come, and one in five callers
        for task in (busy, *tasks):
            task.cancel()

    run(scene())
