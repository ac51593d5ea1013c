"""Wires the stage of a run from its configuration."""

from __future__ import annotations

from common import run_services
from common.run_config import RunConfig
from learning.episodes import Stage
from learning.waiting import PatientGenerator, PatientRetriever, SharedRetriever
from search_agent.world import World

_SEARCHES_KEPT = 20_000  # of about 5 kB each


def world_of(run: RunConfig) -> World:
    """Returns the world of a run's episodes, without a searcher, with one channel to each service."""
    patient = PatientRetriever(run_services.retriever_of(run), run.retriever_timeout_s)
    retriever = SharedRetriever(patient, _SEARCHES_KEPT)
    generator = PatientGenerator(run_services.generator_of(run), run.generator_timeout_s)
    return World(retriever, generator=generator, judge=run_services.judge_of(run.reward))


def stage_of(run: RunConfig) -> Stage:
    """Returns the stage of a run's episodes."""
    return Stage(run.method, world_of(run), run.reward)
