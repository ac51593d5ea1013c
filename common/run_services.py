"""From a run's configuration to the services that it names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from common.backends import GrpcGenerator, GrpcRetriever
from common.http import client
from common.judge import JudgeEndpoint
from common.run_config import RewardConfig, RunConfig
from common.settings import judge_key
from search_agent.world import Whole, World


def retriever_of(run: RunConfig) -> GrpcRetriever:
    return GrpcRetriever(run.retriever, run.retriever_timeout_s, run.patience_s)


def generator_of(run: RunConfig) -> GrpcGenerator:
    return GrpcGenerator(run.generator, run.generator_timeout_s, run.patience_s)


def judge_of(terms: RewardConfig) -> JudgeEndpoint | None:
    """Returns the judge that the reward names, or None if it names none."""
    if terms.judge is None:
        return None
    http = client(httpx.AsyncClient, terms.judge.url, timeout=terms.judge.timeout_s)
    return JudgeEndpoint(http, terms.judge.url, terms.judge.model, judge_key())


@asynccontextmanager
async def world_of(run: RunConfig) -> AsyncIterator[World]:
    """Opens the world of a run, without its searcher, and closes its channels at the end."""
    retriever, generator = retriever_of(run), generator_of(run)
    try:
        yield World(retriever, generator=Whole(generator), judge=judge_of(run.reward))
    finally:
        await retriever.close()
        await generator.close()
