"""Errors survive the way from an actor to the command that started it."""

import pickle

import pytest

from evaluation.endpoints import Endpoints
from evaluation.errors import EvaluateProblem, Failed
from search_agent.errors import BoundaryError, Failure, JudgeError, RetrieverError


@pytest.mark.parametrize(
    "error",
    [
        JudgeError(Failure.TIMEOUT, "too slow"),
        *(kind(Failure.INVALID, "too many", "top_k") for kind in BoundaryError.__subclasses__()),
        Failed("generator", "timeout", "too slow"),
        EvaluateProblem("no"),
    ],
    ids=repr,
)
def test_an_error_is_the_same_after_pickling(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


def test_a_boundary_error_names_the_field_at_fault() -> None:
    assert str(RetrieverError(Failure.INVALID, "too many", "top_k")) == "top_k: too many"
    assert str(RetrieverError(Failure.BROKEN, "no vectors")) == "no vectors"


def test_endpoints_travel_with_their_keys_and_do_not_show_them() -> None:
    endpoints = Endpoints("http://gateway", 10, "secret-1", "http://judge/v1", "judge-1", "secret-2")
    assert pickle.loads(pickle.dumps(endpoints)) == endpoints
    assert "secret" not in repr(endpoints)
