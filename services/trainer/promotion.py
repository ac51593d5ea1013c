"""Promotion: a checkpoint that passes the gate takes the running searcher's place, and can be rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from common.journal import Journal
from common.run_config import RunConfig
from common.training import GateOutcome, GateProgress, Promotion, Verdict
from evaluation import questions as question_sets
from evaluation.errors import EvaluateProblem
from search_agent.agents import AGENTS
from search_agent.errors import Failure, TrainerError
from search_agent.types import ModelInfo
from search_agent.world import World
from services.trainer import gate
from services.trainer.candidates import Candidates, Files, LoadableSearcher
from services.trainer.gate import Contest, Side
from services.trainer.runs import Runs, now

log = structlog.get_logger()

DEFAULT = "searcher"  # the name of the searcher of methods that have none of their own


@dataclass(frozen=True, slots=True)
class _Record:
    """A line of promotions.jsonl as a rollback needs it: `before` tells the model that was replaced."""

    kind: str
    searcher: str
    before: dict[str, str]


@dataclass(frozen=True, slots=True)
class GateLimits:
    """How many questions a gate asks at once, and how many seconds it may take."""

    concurrency: int
    seconds: float


class Promoter:
    """One promotion or rollback at a time; RUNS/promotions.jsonl has them all, and what each replaced."""

    def __init__(
        self,
        runs: Runs,
        folder: Path,
        searchers: Mapping[str, LoadableSearcher],
        candidates: Candidates,
        worlds: Callable[[RunConfig], AbstractAsyncContextManager[World]],
        limits: GateLimits,
        clock: Callable[[], str] = now,
    ) -> None:
        self._runs, self._searchers, self._candidates = runs, searchers, candidates
        self._worlds, self._limits, self._clock = worlds, limits, clock
        self._path = folder.absolute() / "promotions.jsonl"
        self._busy = asyncio.Lock()

    async def promote(self, id: str, checkpoint: int, searcher: str) -> AsyncGenerator[GateProgress | Promotion, None]:
        """The gate's progress, then what came of it. `checkpoint` 0 is the newest; `searcher` "" is the method's.

        Raises BoundaryError. Leaving early stops the gate, and its answers are kept.
        """
        self._runs.get(id)
        settings = self._runs.config(id)
        name = searcher or (settings.agent if settings.agent in self._searchers else DEFAULT)
        target = self._searcher(name)
        async with self._alone():
            step = self._checkpoint(id, checkpoint)
            current = await target.info()
            if not current.path:
                raise TrainerError(Failure.UNSUPPORTED, f"the engine of {name} loads no models")
            files = self._files(id, step, current.engine)
            queue: asyncio.Queue[GateProgress | None] = asyncio.Queue()
            judging = asyncio.create_task(self._judge(id, settings, files, target, current, queue))
            judging.add_done_callback(lambda _: queue.put_nowait(None))
            try:
                while (progress := await queue.get()) is not None:
                    yield progress
                verdict = await judging
            finally:
                judging.cancel()
                await asyncio.wait([judging])
            loading = asyncio.ensure_future(self._settle(id, step, name, target, files, current, verdict))
            yield await asyncio.shield(loading)  # once begun it is done, whoever has left

    async def rollback(self, searcher: str) -> Promotion:
        """Loads what the latest promotion of the searcher replaced. Raises BoundaryError."""
        name = searcher or DEFAULT
        target = self._searcher(name)
        async with self._alone():
            replaced: list[dict[str, str]] = []
            for record in self._records():
                if record.searcher == name and record.kind == "promote":
                    replaced.append(record.before)
                elif record.searcher == name and record.kind == "rollback":
                    del replaced[-1:]
            if not replaced:
                raise TrainerError(Failure.UNSUPPORTED, f"{name} has no promotion to roll back")
            current = await target.info()
            return await asyncio.shield(asyncio.ensure_future(self._restore(name, target, current, replaced[-1])))

    async def _judge(
        self,
        id: str,
        settings: RunConfig,
        files: Files,
        target: LoadableSearcher,
        current: ModelInfo,
        queue: asyncio.Queue[GateProgress | None],
    ) -> Verdict:
        terms = settings.gate
        try:
            held_out = question_sets.part(question_sets.load(terms.questions), *terms.part)
            asked = question_sets.pick(held_out, terms.limit, terms.seed)
        except EvaluateProblem as error:
            raise TrainerError(Failure.UNSUPPORTED, str(error), "config.gate.questions") from None
        parameters = {"index": settings.index, **settings.agent_parameters, "constrained": terms.constrained}
        async with (
            self._worlds(settings) as world,
            self._candidates(files, current) as candidate,
        ):
            info, generator = await candidate.info(), await world.generator.info()
            if info.model == current.model:
                raise TrainerError(Failure.UNSUPPORTED, f"{current.model} is served already")
            indexes = {index.name: index.version for index in await world.retriever.indexes()}
            contest = Contest(
                questions=asked,
                agent=AGENTS[settings.agent].with_params(parameters),
                policies={Side.CANDIDATE: candidate, Side.CURRENT: target},
                models={Side.CANDIDATE: info.model, Side.CURRENT: current.model},
                world=world,
                generator_model=generator.model,
                answer_tokens=settings.reward.answer_tokens,
                facts={"indexes": indexes, "judge": getattr(world.judge, "facts", None)},
            )
            return await gate.hold(
                contest,
                terms,
                self._runs.path(id) / "gates",
                self._limits.concurrency,
                self._limits.seconds,
                lambda done, failed, total: queue.put_nowait(GateProgress(done, failed, total)),
            )

    async def _settle(
        self,
        id: str,
        step: int,
        name: str,
        target: LoadableSearcher,
        files: Files,
        current: ModelInfo,
        verdict: Verdict,
    ) -> Promotion:
        passed = verdict.outcome is GateOutcome.PASSED
        loaded = await target.load(files.path, files.adapter) if passed else current
        promotion = Promotion(name, loaded.model, current.model, self._clock(), id, step, verdict)
        self._record("promote" if passed else "refused", promotion, loaded, current)
        return promotion

    async def _restore(
        self, name: str, target: LoadableSearcher, current: ModelInfo, before: Mapping[str, str]
    ) -> Promotion:
        loaded = await target.load(before["path"], before["adapter"])
        promotion = Promotion(name, loaded.model, current.model, self._clock())
        self._record("rollback", promotion, loaded, current)
        return promotion

    def _alone(self) -> AbstractAsyncContextManager[None]:
        if self._busy.locked():
            raise TrainerError(Failure.OVERLOADED, "another promotion or rollback is under way")
        return self._busy

    def _searcher(self, name: str) -> LoadableSearcher:
        if name not in self._searchers:
            there = f"there are {', '.join(self._searchers)}" if self._searchers else "set TRAINER_SEARCHER"
            raise TrainerError(Failure.UNSUPPORTED, f"no searcher is called {name!r}; {there}", "searcher")
        return self._searchers[name]

    def _checkpoint(self, id: str, wanted: int) -> int:
        found = self._runs.checkpoints(id)
        if not found:
            raise TrainerError(Failure.UNSUPPORTED, f"run {id} has no checkpoint yet", "checkpoint")
        if wanted and wanted not in found:
            message = f"run {id} has no checkpoint {wanted}; there are {', '.join(map(str, found))}"
            raise TrainerError(Failure.UNSUPPORTED, message, "checkpoint")
        return wanted or found[-1]

    def _files(self, id: str, step: int, engine: str) -> Files:
        """The checkpoint's LoRA adapter or, of a run without LoRA, the model that was made of it for the engine."""
        folder = self._runs.path(id) / "checkpoints" / f"global_step_{step}"
        if (adapter := folder / "lora_adapter").is_dir():
            return Files("", str(adapter))
        name = "model" if engine == "vllm" else "model.gguf"  # a folder with safetensors, or a file
        if (model := folder / name).exists():
            return Files(str(model), "")
        raise TrainerError(
            Failure.UNSUPPORTED, f"{folder} has neither lora_adapter nor {name}, which {engine} loads", "checkpoint"
        )

    def _records(self) -> list[_Record]:
        journal = Journal(self._path, _Record)
        journal.close()
        return journal.found

    def _record(self, kind: str, promotion: Promotion, after: ModelInfo, before: ModelInfo) -> None:
        log.info("promotion", kind=kind, searcher=promotion.searcher, model=promotion.model, before=promotion.before)
        journal = Journal(self._path, _Record)
        try:
            journal.append({"kind": kind, **asdict(promotion), "model": _model(after), "before": _model(before)})
        finally:
            journal.close()


def _model(info: ModelInfo) -> dict[str, str]:
    """What tells a model, and loads it again."""
    return {"model": info.model, "path": info.path, "adapter": info.adapter}
