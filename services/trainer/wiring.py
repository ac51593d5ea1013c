"""From a run's configuration to the services it talks to: the one place where the trainer's parts meet."""

from __future__ import annotations

import os

import httpx

from services.common.backends import GrpcGenerator, GrpcRetriever
from services.evaluate.judge import Judge as JudgeEndpoint
from services.trainer.config import RewardConfig, RunConfig
from services.trainer.episodes import Judge, Stage
from services.trainer.patience import PatientGenerator, PatientRetriever


def retriever_of(run: RunConfig) -> GrpcRetriever:
    return GrpcRetriever(run.retriever, run.retriever_timeout_s)


def generator_of(run: RunConfig) -> GrpcGenerator:
    return GrpcGenerator(run.generator, run.generator_timeout_s)


def judge_of(terms: RewardConfig) -> Judge | None:
    """The judge that the reward names, if it names one."""
    if terms.judge is None:
        return None
    http = httpx.AsyncClient(timeout=terms.judge.timeout_s)
    return JudgeEndpoint(http, terms.judge.url, terms.judge.model, os.environ.get("JUDGE_API_KEY", ""))


def stage_of(run: RunConfig) -> Stage:
    """Where the run's episodes are played: one channel to each service."""
    retriever = PatientRetriever(retriever_of(run), run.retriever_timeout_s)
    generator = PatientGenerator(generator_of(run), run.generator_timeout_s)
    return Stage(run.method, retriever, generator, judge_of(run.reward), run.reward)
