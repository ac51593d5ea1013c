"""Wires the stage of a run from its configuration."""

from __future__ import annotations

from common import run_services
from common.run_config import RunConfig
from learning.episodes import Stage
from learning.shared_searches import SharedRetriever
from search_agent.world import Whole, World

_SEARCHES_KEPT = 20_000  # of about 5 kB each


def world_of(run: RunConfig) -> World:
    """Returns the world of a run's episodes, without a searcher, with one channel to each service."""
    retriever = SharedRetriever(run_services.retriever_of(run), _SEARCHES_KEPT)
    return World(retriever, generator=Whole(run_services.generator_of(run)), judge=run_services.judge_of(run.reward))


def stage_of(run: RunConfig) -> Stage:
    """Returns the stage of a run's episodes."""
    return Stage(run.method, world_of(run), run.reward)
