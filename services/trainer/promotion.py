"""Promotion: a checkpoint that passes the gate takes the running searcher's place, and can be rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

from common import model_card
from common.journal import Journal
from common.run_config import RunConfig
from common.training import GateOutcome, GateProgress, Promotion, Verdict
from evaluation import questions as question_sets
from evaluation.errors import EvaluateProblem
from search_agent.agents import AGENTS, Agent
from search_agent.errors import BoundaryError, Failure, TrainerError
from search_agent.types import UNTAUGHT, ModelInfo, Question
from search_agent.world import World
from services.trainer import gate
from services.trainer.candidates import Candidates, Files, LoadableSearcher
from services.trainer.gate import Contender, Contest, Side
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


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A checkpoint of a run that is to replace the model `current` in the searcher called `name`."""

    run: str
    step: int
    settings: RunConfig
    files: Files
    name: str
    target: LoadableSearcher
    current: ModelInfo


class Promoter:
    """Promotes and rolls back, one at a time. RUNS/promotions.jsonl records each, and what it replaced."""

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
        """Yields the gate's progress, then the promotion.

        `checkpoint` 0 means the newest; an empty `searcher` means the one that the run's method asks. Closing the
        generator stops the gate, which keeps its answers. Raises BoundaryError.
        """
        self._runs.get(id)
        settings = self._runs.config(id)
        name = searcher or (settings.agent if settings.agent in self._searchers else DEFAULT)
        target = self._searcher(name)
        async with self._alone():
            step = self._checkpoint(id, checkpoint)
            current = await _current(target)
            if not current.path:
                raise TrainerError(Failure.UNSUPPORTED, f"the engine of {name} loads no models")
            files = await asyncio.to_thread(self._files, id, step, name, current, settings)
            attempt = _Attempt(id, step, settings, files, name, target, current)
            queue: asyncio.Queue[GateProgress | None] = asyncio.Queue()
            judging = asyncio.create_task(self._judge(attempt, queue.put_nowait))
            judging.add_done_callback(lambda _: queue.put_nowait(None))
            try:
                while (progress := await queue.get()) is not None:
                    yield progress
                judged, verdict = await judging
            finally:
                judging.cancel()
                await asyncio.wait([judging])
            settling = asyncio.ensure_future(self._settle(attempt, judged, verdict))
            yield await asyncio.shield(settling)  # once begun it is completed, even if the caller leaves

    async def rollback(self, searcher: str) -> Promotion:
        """Loads what the searcher's latest promotion replaced. Raises BoundaryError."""
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
            current = await _current(target)
            return await asyncio.shield(asyncio.ensure_future(self._restore(name, target, current, replaced[-1])))

    async def _judge(self, attempt: _Attempt, tell: Callable[[GateProgress], None]) -> tuple[ModelInfo, Verdict]:
        """Holds the gate, and returns which model it judged. Each side is asked as it was taught."""
        settings, current = attempt.settings, attempt.current
        asked = _questions(settings)
        async with (
            self._worlds(settings) as world,
            self._candidates(attempt.files, current) as candidate,
        ):
            info, generator = await candidate.info(), await world.generator.info()
            if info.model == current.model:
                raise TrainerError(Failure.UNSUPPORTED, f"{current.model} is served already")
            if info.card.method not in ("", settings.agent):
                message = f"the checkpoint was taught {info.card.method}, and its run trains {settings.agent}"
                raise TrainerError(Failure.UNSUPPORTED, message, "checkpoint")
            indexes = {index.name: index.version for index in await world.retriever.indexes()}
            contest = Contest(
                questions=asked,
                sides={
                    Side.CANDIDATE: Contender(_asked(settings.method, info, settings), candidate, info.model),
                    Side.CURRENT: Contender(
                        _asked(AGENTS[settings.agent], current, settings), attempt.target, current.model
                    ),
                },
                world=world,
                generator_model=generator.model,
                answer_tokens=settings.reward.answer_tokens,
                facts={"indexes": indexes, "judge": getattr(world.judge, "facts", None)},
            )
            verdict = await gate.hold(
                contest,
                settings.gate,
                self._runs.path(attempt.run) / "gates",
                self._limits.concurrency,
                self._limits.seconds,
                tell,
            )
        return info, verdict

    async def _settle(self, attempt: _Attempt, judged: ModelInfo, verdict: Verdict) -> Promotion:
        """Loads the checkpoint if it passed, and records what happened."""
        target, current, loaded = attempt.target, attempt.current, attempt.current
        passed = verdict.outcome is GateOutcome.PASSED
        if passed:
            loaded = await self._loaded(attempt)
            if (loaded.model, loaded.card) != (judged.model, judged.card):
                await target.load(current.path, current.adapter)
                message = "the checkpoint is not what the gate judged, and was taken out again; promote it again"
                raise TrainerError(Failure.UNAVAILABLE, message)
        promotion = Promotion(
            attempt.name, loaded.model, current.model, self._clock(), attempt.run, attempt.step, verdict
        )
        try:
            self._record("promote" if passed else "refused", promotion, loaded, current)
        except OSError as error:
            if passed:  # without a record it could not be rolled back
                await target.load(current.path, current.adapter)
            message = f"nothing was promoted, because it cannot be recorded: {error.strerror}"
            raise TrainerError(Failure.UNAVAILABLE, message) from error
        return promotion

    async def _loaded(self, attempt: _Attempt) -> ModelInfo:
        """Loads the checkpoint. Where only some of the searcher's services do so, it is taken out of them again."""
        target, current = attempt.target, attempt.current
        try:
            return await target.load(attempt.files.path, attempt.files.adapter)
        except BoundaryError as error:
            if await target.agree():
                raise
            left = ""
            try:
                await target.load(current.path, current.adapter)
            except BoundaryError as again:
                left = again.message
            told = "it was taken out again" if await target.agree() else f"it could not be taken out again: {left}"
            raise type(error)(error.failure, f"{error.message}; {told}", error.field) from error

    async def _restore(
        self, name: str, target: LoadableSearcher, current: ModelInfo, before: Mapping[str, str]
    ) -> Promotion:
        loaded = await target.load(before["path"], before["adapter"])
        promotion = Promotion(name, loaded.model, current.model, self._clock())
        self._record("rollback", promotion, loaded, current)
        return promotion

    def _alone(self) -> AbstractAsyncContextManager[None]:
        if self._busy.locked():
            raise TrainerError(Failure.OVERLOADED, "another promotion or rollback is in progress")
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

    def _files(self, id: str, step: int, searcher: str, current: ModelInfo, settings: RunConfig) -> Files:
        """Returns the checkpoint's LoRA adapter or, for a run without LoRA, the model in the engine's format.

        A checkpoint without a card gets one: it was taught what its run's configuration says. Slow if the model has to
        be converted.
        """
        folder = self._runs.path(id) / "checkpoints" / f"global_step_{step}"
        adapter, model = folder / "lora_adapter", folder / "model"
        try:
            if adapter.is_dir():
                weights = adapter
            elif current.shared:
                message = f"{searcher} shares its base model with other names; a whole model needs a service of its own"
                raise TrainerError(Failure.UNSUPPORTED, message, "searcher")
            elif current.engine == "vllm":
                weights = model
            else:
                weights = _in_gguf(model, Path(current.path))
            if not weights.exists():
                engine = current.engine
                message = (
                    f"checkpoint {step} of run {id} has neither lora_adapter nor {weights.name}, which {engine} loads"
                )
                raise TrainerError(Failure.UNSUPPORTED, message, "checkpoint")
            if model_card.read(weights) == UNTAUGHT:
                card = replace(settings.card(), figures={"step": step})
                model_card.write(weights if weights.is_dir() else folder, card)
        except OSError as error:
            message = f"checkpoint {step} of run {id} cannot be written to: {error.strerror}"
            raise TrainerError(Failure.UNAVAILABLE, message) from error
        return Files("", str(adapter)) if weights is adapter else Files(str(weights), "")

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


def _in_gguf(model: Path, like: Path) -> Path:
    """Returns a checkpoint's model in GGUF; converts it unless that has been done. Raises OSError and TrainerError."""
    out = model.with_suffix(".gguf")
    if out.exists() or not model.is_dir():
        return out
    if not like.is_file():
        message = f"to convert {model} to GGUF, the trainer needs the searcher's model, and has no file {like}"
        raise TrainerError(Failure.UNSUPPORTED, message, "checkpoint")
    from services.generator.fine_tuned import to_gguf

    try:
        return to_gguf(model, like, out)
    except ValueError as error:
        raise TrainerError(Failure.UNSUPPORTED, f"cannot be converted to GGUF: {error}", "checkpoint") from error


async def _current(target: LoadableSearcher) -> ModelInfo:
    """Returns the searcher's model. Services that were left with different ones all get the first one's."""
    current = await target.info()
    if current.path and not await target.agree():
        return await target.load(current.path, current.adapter)
    return current


def _questions(settings: RunConfig) -> list[Question]:
    """Returns the gate's questions. Raises TrainerError naming the field."""
    terms = settings.gate
    try:
        held_out = question_sets.part(question_sets.load(terms.questions), *terms.part)
    except EvaluateProblem as error:
        raise TrainerError(Failure.UNSUPPORTED, str(error), "config.gate.questions") from None
    return question_sets.pick(held_out, terms.limit, terms.seed)


def _asked(agent: Agent, model: ModelInfo, settings: RunConfig) -> Agent:
    """Returns the agent as the gate asks it: as its searcher was taught, on the run's index. Raises TrainerError."""
    try:
        taught = agent.as_taught(model.card)
    except ValueError as error:
        raise TrainerError(Failure.UNSUPPORTED, f"{model.model} cannot be asked as it was taught: {error}") from None
    return taught.with_params({"index": settings.index, "constrained": settings.gate.constrained})


def _model(info: ModelInfo) -> dict[str, str]:
    """Returns the fields that name a model and load it again."""
    return {"model": info.model, "path": info.path, "adapter": info.adapter}
