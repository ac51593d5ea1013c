"""bench.shards: how rankings and processor time are compared."""

from __future__ import annotations

import os
import time

import pytest

from bench.shards import Served, measured, overlap
from search_agent.types import Passage, Rankings


def rankings(*queries: str) -> Rankings:
    """Returns rankings of passages whose ids are the letters of a query's text."""
    return Rankings([tuple(Passage(id, "", "") for id in query) for query in queries], "index@1")


def test_shards_are_compared_by_the_passages_that_they_find_and_the_first() -> None:
    whole, parts = rankings("abcd", "ef"), rankings("abdx", "fe")
    assert overlap(whole, parts) == {"overlap": 5 / 6, "same_first": 0.5}


def test_a_query_for_which_nothing_was_found_has_no_first_passage() -> None:
    assert overlap(rankings("a", ""), rankings("a", "")) == {"overlap": 1.0, "same_first": 1.0}


async def test_a_measurement_tells_the_processor_time_of_a_query() -> None:
    async def busy() -> dict[str, float]:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        return {"queries": 4}

    found = await measured(Served(0, (os.getpid(),)), busy())
    assert found["queries"] == 4
    assert found["processor_ms"] == pytest.approx(50, abs=20)
