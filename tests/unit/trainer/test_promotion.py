"""What is served after promotions and rollbacks."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from contracts.v1.generator_pb2 import ModelInfoResponse
from search_agent.errors import Failure, GeneratorError, TrainerError
from search_agent.ports import Policy
from search_agent.types import Completion, Sampling, Span
from services.trainer import config
from services.trainer.config import RunConfig
from services.trainer.gate import Verdict
from services.trainer.promotion import HISTORY, Promoter

RUN = config.load("smollm2-demo")


class Model:
    """A generator service that tells what it was loaded with."""

    def __init__(self, path: str = "/base.gguf", adapter: str = "/first.gguf") -> None:
        self.path, self.adapter, self.broken = path, adapter, False

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        raise AssertionError("the gate is given, not run")

    async def info(self) -> ModelInfoResponse:
        return ModelInfoResponse(model=f"base@{self.adapter}", path=self.path, adapter=self.adapter)

    async def load(self, path: str, adapter: str, timeout_s: float) -> ModelInfoResponse:
        if self.broken:
            raise GeneratorError(Failure.INVALID, "no such file", "adapter")
        self.path, self.adapter = path or self.path, adapter
        return await self.info()


class Stage:
    """A promoter over fakes; `passes` is the gate's answer."""

    def __init__(self, runs: Path, with_candidate: bool = True) -> None:
        self.searcher, self.candidate, self.passes = Model(), Model(), True
        self.judged: list[tuple[list[str], Path]] = []
        candidate = self.candidate if with_candidate else None
        self.promoter = Promoter(runs, self.searcher, candidate, self._judge, self._export)
        self.run = runs / "run"

    async def _judge(self, run: RunConfig, models: dict[str, Policy], journal: Path) -> Verdict:
        self.judged.append((list(models), journal))
        return Verdict(self.passes, "told", 10, 0)

    def _export(self, checkpoint: Path, run: RunConfig, out: Path) -> Path:
        return out / "adapter.gguf"

    async def promote(self, step: int) -> tuple[bool, str]:
        verdict, serving = await self.promoter.promote(RUN, self.run, step, self.run / f"global_step_{step}")
        return verdict.passed, serving.adapter


async def test_a_checkpoint_that_passes_is_served_and_rolled_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    ten, twenty = (str(stage.run / "exports" / step / "adapter.gguf") for step in ("10", "20"))
    assert await stage.promote(10) == (True, ten)
    assert stage.judged == [([f"base@{ten}", "base@/first.gguf"], stage.run / "gate" / "10.jsonl")]
    assert await stage.promote(20) == (True, twenty)
    assert stage.searcher.adapter == twenty
    assert (await stage.promoter.rollback()).adapter == ten
    assert (await stage.promoter.rollback()).adapter == "/first.gguf"
    assert stage.searcher.path == "/base.gguf"
    with pytest.raises(TrainerError, match="nothing was promoted"):
        await stage.promoter.rollback()
    # another process goes by what is on disk
    assert await stage.promote(10) == (True, ten)
    again = Stage(tmp_path)
    again.searcher.adapter = ten
    assert (await again.promoter.rollback()).adapter == "/first.gguf"
    assert len((tmp_path / HISTORY).read_text().splitlines()) == 6


async def test_a_checkpoint_that_fails_the_gate_is_not_served(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.passes = False
    assert await stage.promote(10) == (False, "/first.gguf")
    assert stage.searcher.adapter == "/first.gguf"
    assert not (tmp_path / HISTORY).exists()


async def test_what_serves_is_not_held_against_itself(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.promote(10)
    with pytest.raises(TrainerError, match="is what the searcher serves") as caught:
        await stage.promote(10)
    assert caught.value.field == "checkpoint"


async def test_without_a_candidate_service_nothing_is_tried(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="TRAINER_CANDIDATE") as caught:
        await Stage(tmp_path, with_candidate=False).promote(10)
    assert caught.value.failure is Failure.UNSUPPORTED


async def test_a_searcher_that_cannot_load_it_leaves_no_record(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.searcher.broken = True
    with pytest.raises(GeneratorError, match="no such file"):
        await stage.promote(10)
    assert not (tmp_path / HISTORY).exists()
    stage.searcher.broken = False
    assert (await stage.promote(10))[0]
    json.loads((tmp_path / HISTORY).read_text())
