"""From a run's configuration to the services it talks to: the one place where the trainer's parts meet."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import httpx

from search_agent.errors import Failure, TrainerError
from search_agent.ports import Policy
from services.common.backends import GrpcGenerator, GrpcPolicy, GrpcRetriever
from services.evaluate import questions
from services.evaluate.judge import Judge as JudgeEndpoint
from services.trainer import gate
from services.trainer.config import RewardConfig, RunConfig
from services.trainer.episodes import Judge, Stage
from services.trainer.gate import Verdict
from services.trainer.jobs import Jobs, NoCluster, RayJobs
from services.trainer.promotion import Promoter
from services.trainer.settings import TrainerSettings

_SEARCHER_TIMEOUT_S = 120.0


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
    return Stage(run.method, retriever_of(run), generator_of(run), judge_of(run.reward), run.reward)


def jobs_of(settings: TrainerSettings) -> Jobs:
    """The cluster that trains."""
    return RayJobs(settings.ray_address) if settings.ray_address else NoCluster()


def promoter_of(settings: TrainerSettings) -> Promoter:
    """Promotion to the searcher, by way of the candidate's service if there is one."""
    candidate = GrpcPolicy(settings.candidate, _SEARCHER_TIMEOUT_S) if settings.candidate else None
    searcher = GrpcPolicy(settings.searcher, _SEARCHER_TIMEOUT_S)
    return Promoter(settings.runs.resolve(), searcher, candidate, _judge, _export)


async def _judge(run: RunConfig, models: dict[str, Policy], journal: Path) -> Verdict:
    """The gate over the run's own services, with its agent as it is served."""
    asked = questions.pick(questions.load(run.gate.questions), run.gate.limit, run.gate.seed)
    retriever, generator = retriever_of(run), generator_of(run)
    stage = Stage(run.served, retriever, generator, judge_of(run.reward), run.reward)
    answers = {name: partial(stage.accuracy, model) for name, model in models.items()}
    try:
        return await gate.compare(asked, answers, journal, run.gate, run.reward.max_failed_share)
    finally:
        await retriever.close()
        await generator.close()


def _export(checkpoint: Path, run: RunConfig, out: Path) -> Path:
    """The checkpoint's LoRA adapter as GGUF. Raises TrainerError for a checkpoint without one."""
    from services.trainer.export import ExportProblem, adapter_to_gguf

    try:
        return adapter_to_gguf(checkpoint / "lora_adapter", Path(run.base_model), out / "adapter.gguf")
    except ExportProblem as problem:
        raise TrainerError(Failure.INVALID, str(problem), "checkpoint") from None
