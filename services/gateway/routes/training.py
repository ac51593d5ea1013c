"""Routes of the REST contract over the trainer: runs, promotion, rollback."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import Field, StrictBool, StrictInt, StringConstraints

from common.backends import GrpcTrainer
from common.training import GateOutcome, GateProgress, Promotion, Run, RunState, TrainingStep
from search_agent.errors import Failure, TrainerError
from services.gateway import caller, problems
from services.gateway.schemas import Body, Name, Out
from services.gateway.streams import sse, streamed, with_events


class StartRequest(Body):
    """`config` is the name of a configuration on the trainer's disk; `overrides` replace its dotted fields.

    They cannot name files, hosts or modules of the caller's choice (docs/training.md).
    """

    config: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    overrides: dict[Name, Any] = Field(default_factory=dict, examples=[{"seed": 2, "data.keep": "all"}])


class PromoteRequest(Body):
    """`checkpoint` is its step, the newest if left out.

    `searcher` is the one to replace, by default that of the run's method. With `stream`, Server-Sent Events: progress,
    done, error.
    """

    checkpoint: Annotated[StrictInt, Field(ge=1, lt=2**32)] | None = None
    searcher: Name = ""
    stream: StrictBool = False


class RollbackRequest(Body):
    searcher: Name = ""


class RunOut(Out):
    """`jobs` counts the jobs submitted for it. `config` is YAML, empty in lists; `checkpoints` are steps."""

    id: str
    state: RunState
    created_at: str
    changed_at: str
    jobs: int
    reason: str
    config: str
    checkpoints: list[int]


class StepOut(Out):
    """Metrics by "GROUP/NAME", the groups and labels of the Prometheus metrics `search_agent_training_…`."""

    step: int
    metrics: dict[str, float]


class ProgressOut(Out):
    """Counts answers of both models together."""

    done: int
    failed: int
    total: int


class GateOut(Out):
    """`candidate`, `current`, `difference` with its 95 % interval `low` to `high`, and `margin` are GenAcc, 0 to 1."""

    outcome: GateOutcome
    reason: str
    asked: int
    compared: int
    failed: int
    candidate: float
    current: float
    difference: float
    low: float
    high: float
    margin: float
    wins: int
    losses: int
    p: float


class RollbackOut(Out):
    """`model` serves now, `before` served until now."""

    searcher: str
    model: str
    before: str
    at: str


class PromotionOut(RollbackOut):
    """`promoted` is false if the gate was not passed."""

    promoted: bool
    run: str
    checkpoint: int
    gate: GateOut


_OUT: dict[type, tuple[str, type[Out]]] = {
    Run: ("run", RunOut),
    TrainingStep: ("step", StepOut),
    GateProgress: ("progress", ProgressOut),
    Promotion: ("done", PromotionOut),
}


def routes(trainer: GrpcTrainer | None) -> APIRouter:
    """Returns the routes; without a trainer each answers that there is none."""
    router = APIRouter(prefix="/v1", tags=["training"])

    def backend() -> GrpcTrainer:
        if trainer is None:
            raise problems.NotConfigured("no trainer is configured (GATEWAY_TRAINER)")
        return trainer

    @router.post("/runs", status_code=201, response_model=RunOut)
    async def start(body: StartRequest) -> Run:
        """Starts a training run. A key for certain indexes must name one of them in `overrides.index`."""
        who = caller.current()
        if who.indexes:  # the index of a configuration is known to the trainer only
            who.check_index(str(body.overrides.get("index", "")))
        return await backend().start(body.config, body.overrides)

    @router.get("/runs", response_model=list[RunOut])
    async def runs() -> list[Run]:
        """Returns all runs, newest first."""
        return await backend().runs()

    @router.get("/runs/{id}", response_model=RunOut)
    async def run(id: str) -> Run:
        """Returns a run with its configuration."""
        return await backend().run(id)

    @router.post("/runs/{id}/cancel", response_model=RunOut)
    async def cancel(id: str) -> Run:
        """Asks the run to stop; it is cancelled once its process has ended."""
        return await backend().cancel(id)

    @router.post("/runs/{id}/resume", response_model=RunOut)
    async def resume(id: str) -> Run:
        """Continues an interrupted run from its newest checkpoint."""
        return await backend().resume(id)

    @router.get("/runs/{id}/events", response_class=StreamingResponse, responses=with_events("run", "step", "error"))
    async def events(id: str, request: Request) -> StreamingResponse:
        """Streams the events `run` and `step`: all so far, then new ones until the run ends."""
        return await streamed(request, _text(backend().watch(id)))

    @router.post("/runs/{id}/promote", response_model=PromotionOut, responses=with_events("progress", "done", "error"))
    async def promote(id: str, body: PromoteRequest, request: Request) -> Any:
        """Puts a checkpoint in the searcher's place if it passes the gate.

        Closing the stream stops the gate; the next request continues it.
        """
        answers = backend().promote(id, body.checkpoint or 0, body.searcher)
        return await (streamed(request, _text(answers)) if body.stream else _promotion(answers))

    @router.post("/rollback", response_model=RollbackOut)
    async def rollback(body: RollbackRequest) -> Promotion:
        """Restores what the searcher's latest promotion replaced."""
        return await backend().rollback(body.searcher)

    return router


async def _promotion(events: AsyncGenerator[GateProgress | Promotion, None]) -> Promotion:
    """Waits for the last event."""
    async for event in events:
        if isinstance(event, Promotion):
            return event
    raise TrainerError(Failure.BROKEN, "the promotion ended without a result")


async def _text(events: AsyncGenerator[Any, None]) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        async for event in events:
            name, out = _OUT[type(event)]
            yield sse(name, out.model_validate(event))
