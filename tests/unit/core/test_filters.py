"""Filters by metadata: what they read, refuse and let pass."""

from typing import Any

import pytest

from search_agent.agents import AGENTS
from search_agent.filters import Filter
from search_agent.parameters import BadParameter

METADATA = {"year": 1994, "source": "wiki", "lang": ["en", "de"], "peer": True, "day": "1994-05-06"}


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        ({}, True),
        ({"source": "wiki"}, True),
        ({"source": "news"}, False),
        ({"source": "wiki", "year": 1994.0}, True),
        ({"source": "wiki", "year": 1995}, False),
        ({"year": "1994"}, False),
        ({"peer": True}, True),
        ({"peer": 1}, False),
        ({"lang": "de"}, True),
        ({"lang": {"in": ["fr", "de"]}}, True),
        ({"lang": {"in": ["fr", 1]}}, False),
        ({"year": {"gte": 1994, "lte": 1994}}, True),
        ({"year": {"gte": 1995}}, False),
        ({"year": {"gte": "1"}}, False),
        ({"day": {"gte": "1994-05-01", "lte": "1994-05-31"}}, True),
        ({"day": {"lte": "1994-05-05"}}, False),
        ({"doi": {"exists": False}}, True),
        ({"doi": {"exists": True}}, False),
        ({"lang": {"exists": True}}, True),
        ({"doi": {"lte": 5}}, False),
    ],
)
def test_what_passes(asked: dict[str, Any], passes: bool) -> None:
    assert Filter.from_json(asked).matches(METADATA) is passes


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ([], "object"),
        ({"year": {"gt": 1}}, "year"),
        ({"year": {}}, "year"),
        ({"year": None}, "year"),
        ({"lang": ["en"]}, "lang"),
        ({"lang": {"in": []}}, "lang"),
        ({"lang": {"in": "en"}}, "lang"),
        ({"lang": {"in": [["en"]]}}, "lang"),
        ({"year": {"gte": True}}, "year"),
        ({"year": 2**53 + 2}, "year"),
        ({"year": float("nan")}, "year"),
        ({"doi": {"exists": 1}}, "doi"),
        ({"doi": "x" * 1001}, "doi"),
        ({"doi": "\ud800"}, "doi"),
        ({"": 1}, "key"),
        ({f"k{n}": n for n in range(33)}, "33"),
    ],
)
def test_what_is_refused_is_named(asked: object, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Filter.from_json(asked)


def test_equal_filters_are_one_whatever_the_order() -> None:
    one = Filter.from_json({"a": 1, "b": {"in": ["y", "x", "x"]}})
    assert one == Filter.from_json({"b": {"in": ["x", "y"]}, "a": 1.0})
    assert one != Filter.from_json({"a": True, "b": {"in": ["x", "y"]}})
    assert Filter.from_json(one.to_json()) == one


def test_a_filter_is_a_parameter_of_every_method_that_searches() -> None:
    searching = [agent for agent in AGENTS.values() if hasattr(agent.params, "top_k")]
    assert len(searching) == 6
    for agent in searching:
        asked = agent.with_params({"filter": {"year": {"gte": 1990}}})
        assert asked.params.filter.matches(METADATA)
        assert asked.schema()["properties"]["filter"]["default"] == {"year": {"gte": 1990}}  # type: ignore[index]
    assert "filter" not in AGENTS["s3"].card().parameters
    with pytest.raises(BadParameter, match="year") as caught:
        AGENTS["s3"].with_params({"filter": {"year": []}})
    assert caught.value.field == "filter"
