"""A method is asked as its searcher was taught, and settings only override."""

from __future__ import annotations

import pytest

from search_agent.agents import AGENTS
from search_agent.errors import Failure, SearcherError
from search_agent.parameters import BadParameter
from search_agent.types import UNTAUGHT, ModelCard
from services.gateway.methods import Configuration, Methods
from services.gateway.player import Backends
from tests.fakes import Generator, Retriever, Searcher

CARD = ModelCard("s3", {"max_turns": 1, "turn_tokens": 64})


def backends(searcher: Searcher, **own: Searcher) -> Backends:
    return Backends(Retriever(), searcher, Generator("an answer"), None, own)


def taught(card: ModelCard = CARD) -> Searcher:
    searcher = Searcher([])
    searcher.card = card
    return searcher


async def test_parameters_are_the_defaults_then_the_cards_then_the_settings() -> None:
    agent = await Methods(backends(taught()), {"s3": {"turn_tokens": 32, "top_k": 5}}).agent("s3")
    params = agent.params
    assert (params.max_turns, params.turn_tokens, params.top_k) == (1, 32, 5)
    assert params.max_selected == AGENTS["s3"].params.max_selected


async def test_a_card_is_for_its_method_and_its_searcher_alone() -> None:
    own = taught(ModelCard("search_r1", {"max_turns": 2}))
    methods = Methods(backends(taught(), search_r1=own))
    assert (await methods.agent("search_r1")).params.max_turns == 2
    for name in ("naive_rag", "ircot"):
        assert await methods.agent(name) == AGENTS[name]
    assert await Methods(backends(own)).agent("s3") == AGENTS["s3"]


async def test_a_promotion_brings_its_parameters_without_a_restart() -> None:
    searcher = taught(UNTAUGHT)
    methods = Methods(backends(searcher))
    assert await methods.agent("s3") == AGENTS["s3"]
    searcher.card = CARD
    assert (await methods.agent("s3")).params.max_turns == 1
    searcher.card = ModelCard("s3", {"max_turns": 7})
    assert (await methods.agent("s3")).params.max_turns == 7


async def test_a_searcher_that_is_down_fails_its_methods_until_it_answers() -> None:
    searcher = taught()
    searcher.error = SearcherError(Failure.UNAVAILABLE, "down")
    methods = Methods(backends(searcher), {"s3": {"top_k": 5}})
    with pytest.raises(SearcherError):
        await methods.agent("s3")
    assert await methods.agent("naive_rag") == AGENTS["naive_rag"]
    methods.add("quick", Configuration("s3", {"max_turns": 2}))
    listed = await methods.all()
    assert [*listed] == [*AGENTS, "quick"]
    assert (listed["quick"].params.top_k, listed["quick"].params.max_turns) == (5, 2)
    assert (listed["s3"].params.top_k, listed["s3"].params.max_turns) == (5, AGENTS["s3"].params.max_turns)
    searcher.error = None
    assert (await methods.agent("s3")).params.max_turns == 1


async def test_a_card_of_a_newer_searcher_is_an_error_of_the_searcher() -> None:
    methods = Methods(backends(taught(ModelCard("s3", {"colour": "red"}))))
    with pytest.raises(SearcherError, match="colour") as caught:
        await methods.agent("s3")
    assert caught.value.failure is Failure.BROKEN


def test_a_setting_that_a_method_does_not_take_is_named() -> None:
    with pytest.raises(BadParameter) as caught:
        Methods(backends(taught()), {"s3": {"max_turns": 0}})
    assert caught.value.field == "s3.max_turns"
