"""Promotion and rollback on a searcher that is being asked: real services and models, a gate that is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from contracts.v1.generator_pb2_grpc import add_GeneratorServicer_to_server
from search_agent.ports import Policy
from search_agent.types import Author, Sampling, Span
from services.common import server
from services.common.backends import GrpcPolicy
from services.generator.llama_cpp import LlamaCpp
from services.generator.service import GeneratorService
from services.generator.settings import GeneratorSettings
from services.trainer import config
from services.trainer.config import RunConfig
from services.trainer.gate import Verdict
from services.trainer.promotion import Promoter
from tests.lora import write_lora

ASKED = [Span(Author.ENVIRONMENT, "Name a river.")]


@asynccontextmanager
async def searcher() -> AsyncIterator[GrpcPolicy]:
    engine = await LlamaCpp.start(GeneratorSettings(port=0, context_tokens=512, parallel=2, threads=1))
    register = partial(add_GeneratorServicer_to_server, GeneratorService(engine, max_tokens=64))
    serving, port = await server.start("generator", "v1.Generator", GeneratorSettings(port=0), register)
    policy = GrpcPolicy(f"127.0.0.1:{port}", 60)
    try:
        yield policy
    finally:
        await policy.close()
        await serving.stop(None)
        await engine.close()


def export(checkpoint: Path, run: RunConfig, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    write_lora(out / "adapter.gguf", seed=int(checkpoint.name.removeprefix("global_step_")))
    return out / "adapter.gguf"


async def passed(run: RunConfig, models: dict[str, Policy], journal: Path) -> Verdict:
    for model in models.values():  # as the gate does
        assert (await model.complete(ASKED, Sampling(max_tokens=4))).text
    return Verdict(True, "given", 1, 0)


async def test_no_request_fails_and_every_answer_names_its_model(tmp_path: Path) -> None:
    run, demo = tmp_path / "run", config.load("smollm2-demo")
    async with searcher() as serving, searcher() as candidate:
        promoter = Promoter(tmp_path, serving, candidate, passed, export)
        answers: asyncio.Queue[str] = asyncio.Queue()
        models: set[str] = set()

        async def ask() -> None:
            while True:
                answers.put_nowait((await serving.complete(ASKED, Sampling(max_tokens=8))).model)

        async def asked_of(model: str) -> None:
            """Until `model` answers."""
            named = ""
            while named != model:
                named = await asyncio.wait_for(answers.get(), 60)
                models.add(named)

        asking = [asyncio.create_task(ask()) for _ in range(2)]
        first = (await serving.info()).model
        await asked_of(first)
        promoted = []
        for step in (1, 2):
            verdict, now = await promoter.promote(demo, run, step, run / f"global_step_{step}")
            assert verdict.passed
            promoted.append(now.model)
            await asked_of(now.model)
        assert len({first, *promoted}) == 3
        for before in (promoted[0], first):
            assert (await promoter.rollback()).model == before
            await asked_of(before)
        assert not any(task.done() for task in asking)  # a failed request would have ended its task
        for task in asking:
            task.cancel()
        assert models == {first, *promoted}
