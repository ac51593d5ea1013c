"""The benchmarks of reliability count and measure rightly."""

from __future__ import annotations

import httpx
import pytest

from bench.faults import Asked, figures, recovered, told
from bench.load import NO_RESPONSE, Outcome, outcome
from bench.overload import Promise
from bench.soak import trend

PROBLEM = {"title": "t", "status": 503, "detail": "d", "request_id": "r", "backend": "retriever", "failure": "timeout"}
ANSWER = {"answer": "1745", "documents": [{"id": "p1"}]}


def response(status: int, body: object, media: str = "application/problem+json", **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers={"content-type": media, **headers})


@pytest.mark.parametrize(
    ("given", "typed", "said"),
    [
        (response(200, ANSWER, "application/json"), True, "200"),
        (response(503, PROBLEM), True, "503 retriever timeout"),
        (response(504, PROBLEM), False, "504 retriever timeout"),  # not the status that it has
        (response(503, PROBLEM, "application/json"), False, "503 retriever timeout"),
        (response(502, {"detail": "Bad Gateway"}), False, "502"),
        (httpx.Response(502, text="<html>"), False, "502"),
    ],
)
def test_an_error_is_typed_if_it_is_the_projects_problem(given: httpx.Response, typed: bool, said: str) -> None:
    found = outcome(0, given)
    assert (found.typed, found.said) == (typed, said)


def test_the_exact_wait_is_preferred_to_the_headers_whole_seconds() -> None:
    assert outcome(0, response(503, {**PROBLEM, "retry_after_s": 1.25}, **{"retry-after": "2"})).retry_after_s == 1.25
    assert outcome(0, response(503, PROBLEM, **{"retry-after": "2"})).retry_after_s == 2


def asked(began: float, seconds: float, status: int = 200, kind: str = "s3", **body: object) -> Asked:
    return Asked(kind, "" if kind == "runs" else "q", Outcome(began, seconds, status, {**ANSWER, **body}))


def test_figures_of_a_fault_that_begins_at_10_and_ends_at_20() -> None:
    requests = [
        asked(1, 2),
        asked(9, 12),  # waited through the fault
        asked(11, 1, status=503, backend="retriever", failure="unavailable"),
        asked(12, 1),
        asked(13, 30, status=NO_RESPONSE, error="ReadTimeout"),
        asked(21, 3, answer="another"),
        asked(19, 2, kind="runs"),
    ]
    again = recovered(requests, 20)
    assert again == {"naive_rag": None, "s3": 1, "retrieve": None, "runs": 1}
    found = figures(requests, 10, 20, {("s3", "q"): told(ANSWER)}, again)
    assert (found["sent"], found["answered"], found["answered_of_those_sent_during"]) == (7, 5, 1)
    assert (found["wrong"], found["no_response"], found["longest_s"], found["back_s"]) == (1, 1, 30, 1)
    assert found["errors"] == {"s3: 503 retriever unavailable": 1, "s3: no response (ReadTimeout)": 1}


def test_a_trend_is_told_in_mb_an_hour_with_an_interval_that_holds_it() -> None:
    samples = [(at, 100 + at / 360 + (1 if at % 120 < 60 else -1)) for at in range(0, 1800, 10)]
    found = trend(samples)
    assert found["low"] < 10 < found["high"]
    assert found["mb_per_hour"] == pytest.approx(10, abs=3)
    assert found["last_over_first"] == pytest.approx(1 + 1200 / 360 / 100, abs=0.005)


@pytest.mark.parametrize(
    ("told_s", "kept_s", "kept"), [(2, 2.9, True), (2, 3.1, False), (20, 25, True), (20, 26, False)]
)
def test_a_promise_may_be_late_by_a_second_or_a_quarter(told_s: float, kept_s: float, kept: bool) -> None:
    assert Promise(told_s, kept_s).is_kept is kept
