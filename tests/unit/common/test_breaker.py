"""A backend that keeps failing is left alone for a moment."""

import asyncio

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
    assert fail(breaker) == "it failed 5 times in a row; one call tries it"
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


@pytest.mark.parametrize(
    ("failure", "counts_time"),
    [(Failure.INVALID, True), (Failure.OVERLOADED, True), (Failure.TIMEOUT, False)],
)
def test_what_says_nothing_against_the_backend(breaker: Breaker, failure: Failure, counts_time: bool) -> None:
    assert {fail(breaker, failure, counts_time) for _ in range(9)} == {"asked"}
