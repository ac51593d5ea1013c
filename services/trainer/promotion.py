"""Which checkpoint is served: promoted through the gate, and rolled back, on a searcher that goes on serving."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from contracts.v1.generator_pb2 import ModelInfoResponse
from search_agent.errors import Failure, TrainerError
from search_agent.ports import Policy
from services.common import metrics
from services.evaluate.journal import Journal
from services.trainer.config import RunConfig
from services.trainer.gate import Verdict

_LOAD_TIMEOUT_S = 300.0
HISTORY = "promotions.jsonl"


class Model(Policy, Protocol):
    """A generator service that holds a searcher."""

    async def info(self) -> ModelInfoResponse: ...

    async def load(self, path: str, adapter: str, timeout_s: float) -> ModelInfoResponse: ...


Judge = Callable[[RunConfig, dict[str, Policy], Path], Awaitable[Verdict]]  # models by name, the candidate first
Export = Callable[[Path, RunConfig, Path], Path]  # (checkpoint, run, folder) -> an adapter that the searcher loads


@dataclass(frozen=True, slots=True)
class Serving:
    model: str
    adapter: str


class Promoter:
    """One promotion or rollback at a time. What was served before each is in RUNS/promotions.jsonl."""

    def __init__(self, runs: Path, searcher: Model, candidate: Model | None, judge: Judge, export: Export) -> None:
        self._history = runs / HISTORY
        self._searcher, self._candidate = searcher, candidate
        self._judge, self._export = judge, export
        self._lock = asyncio.Lock()

    async def promote(self, config: RunConfig, run: Path, step: int, checkpoint: Path) -> tuple[Verdict, Serving]:
        """Serves the checkpoint if it passes the gate. Raises BoundaryError, and then what served goes on serving."""
        if self._candidate is None:
            message = "a candidate is tried on a generator service of its own; TRAINER_CANDIDATE names it"
            raise TrainerError(Failure.UNSUPPORTED, message)
        async with self._lock:
            adapter = await asyncio.to_thread(self._export, checkpoint, config, run / "exports" / str(step))
            tried = await self._candidate.load("", str(adapter), _LOAD_TIMEOUT_S)
            before = await self._searcher.info()
            if tried.model == before.model:
                raise TrainerError(Failure.INVALID, f"step {step} is what the searcher serves", "checkpoint")
            models: dict[str, Policy] = {tried.model: self._candidate, before.model: self._searcher}
            verdict = await self._judge(config, models, run / "gate" / f"{step}.jsonl")
            metrics.TRAINER_GATES.labels("passed" if verdict.passed else "refused").inc()
            if not verdict.passed:
                return verdict, Serving(before.model, before.adapter)
            now = await self._searcher.load("", str(adapter), _LOAD_TIMEOUT_S)
            self._record({"run": run.name, "step": step, "model": now.model, "before": _again(before)})
            return verdict, Serving(now.model, now.adapter)

    async def rollback(self) -> Serving:
        """Serves what was served before the newest promotion that still holds. Raises BoundaryError."""
        async with self._lock:
            standing: list[dict[str, Any]] = []
            for line in self._read():
                if "before" in line:
                    standing.append(line)
                else:
                    standing.pop()
            if not standing:
                raise TrainerError(Failure.INVALID, "nothing was promoted that could be rolled back")
            before = standing[-1]["before"]
            now = await self._searcher.load(before["path"], before["adapter"], _LOAD_TIMEOUT_S)
            self._record({"rolled_back": standing[-1]["model"], "model": now.model})
            return Serving(now.model, now.adapter)

    def _read(self) -> list[dict[str, Any]]:
        journal = Journal(self._history)
        journal.close()
        return journal.found

    def _record(self, line: dict[str, Any]) -> None:
        journal = Journal(self._history)
        journal.append({"at": datetime.now(UTC).isoformat(timespec="seconds"), **line})
        journal.close()


def _again(info: ModelInfoResponse) -> dict[str, str]:
    return {"model": info.model, "path": info.path, "adapter": info.adapter}
