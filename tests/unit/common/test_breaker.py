"""A backend that keeps failing is left alone for a moment."""

import asyncio
from contextlib import suppress

import pytest
from prometheus_client import REGISTRY

from common.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from search_agent.errors import Failure, RetrieverError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fail(breaker: Breaker, failure: Failure = Failure.UNAVAILABLE, counts_time: bool = True) -> str:
    """Returns what a call is told that fails if it is made."""
    with pytest.raises(RetrieverError) as raised, breaker.call(counts_time):
        raise RetrieverError(failure, "asked")
    return str(raised.value)


def state() -> float | None:
    return REGISTRY.get_sample_value("search_agent_breaker", {"backend": "retriever"})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("retriever", RetrieverError, clock)


@pytest.mark.parametrize("failure", [Failure.UNAVAILABLE, Failure.TIMEOUT])
def test_what_a_field_names_is_not_the_backend(breaker: Breaker, failure: Failure) -> None:
    for _ in range(9):
        with pytest.raises(RetrieverError, match="index: its server is down"), breaker.call():
            raise RetrieverError(failure, "its server is down", "index")
    assert state() == CLOSED


def test_it_opens_after_five_failures_in_a_row_and_one_call_tries(breaker: Breaker, clock: Clock) -> None:
    for _ in range(4):
        fail(breaker)
    with breaker.call():
        pass
    assert [fail(breaker) for _ in range(5)] == ["asked"] * 5
    assert state() == OPEN
    assert fail(breaker) == "asked (5 times in a row; one call tries it)"
    clock.now += 1
    with breaker.call():
        assert state() == HALF_OPEN
        assert fail(breaker) != "asked"
    assert state() == CLOSED
    assert fail(breaker) == "asked"


def test_it_opens_again_if_the_call_that_tries_fails_or_leaves(breaker: Breaker, clock: Clock) -> None:
    for _ in range(5):
        fail(breaker)
    clock.now += 1
    assert fail(breaker) == "asked"
    assert fail(breaker) != "asked"
    clock.now += 1
    with pytest.raises(asyncio.CancelledError), breaker.call():
        raise asyncio.CancelledError
    assert state() == OPEN
    with breaker.call():
        pass
    assert state() == CLOSED


def half_open(breaker: Breaker, clock: Clock) -> None:
    """Opens the breaker and waits until a call may try."""
    for _ in range(5):
        fail(breaker)
    clock.now += 1


def test_a_call_that_had_little_time_says_nothing(breaker: Breaker, clock: Clock) -> None:
    for _ in range(4):
        fail(breaker)
    fail(breaker, Failure.TIMEOUT, counts_time=False)
    fail(breaker)
    assert state() == OPEN  # the fifth failure
    clock.now += 1
    assert fail(breaker, Failure.TIMEOUT, counts_time=False) == "asked"
    assert state() == OPEN
    assert fail(breaker) == "asked"  # the next one tries at once
    assert fail(breaker) != "asked"


def test_a_call_that_tries_for_long_lets_another_try(breaker: Breaker, clock: Clock) -> None:
    half_open(breaker, clock)
    with breaker.call():
        clock.now += 5
        assert fail(breaker) != "asked"
        clock.now += 5
        with breaker.call():
            pass
        assert state() == CLOSED


def test_a_call_that_leaves_does_not_open_what_another_has_closed(breaker: Breaker, clock: Clock) -> None:
    half_open(breaker, clock)
    with suppress(asyncio.CancelledError), breaker.call():
        clock.now += 10
        with breaker.call():
            pass
        raise asyncio.CancelledError
    assert state() == CLOSED


def test_an_answer_closes_it_before_the_call_that_tries_has_ended(breaker: Breaker, clock: Clock) -> None:
    half_open(breaker, clock)
    with breaker.call():
        breaker.answers()
        assert state() == CLOSED
        assert fail(breaker) == "asked"  # which it does not forgive yet
        assert state() == OPEN


@pytest.mark.parametrize(
    ("failure", "counts_time"),
    [(Failure.INVALID, True), (Failure.OVERLOADED, True), (Failure.TIMEOUT, False)],
)
def test_what_says_nothing_against_the_backend(breaker: Breaker, failure: Failure, counts_time: bool) -> None:
    assert {fail(breaker, failure, counts_time) for _ in range(9)} == {"asked"}
