"""Routes of the REST contract over the trainer: runs, promotion, rollback."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from common import client
from common.codecs import trainer as codec
from common.training import GateOutcome, GateProgress, Promotion, Run, RunState, TrainingStep
from contracts.v1 import trainer_pb2 as pb
from contracts.v1.trainer_pb2_grpc import TrainerStub
from search_agent.errors import BoundaryError, Failure, TrainerError
from services.gateway import problems
from services.gateway.asking import count_failure
from services.gateway.schemas import Request
from services.gateway.sse import sse

log = structlog.get_logger()
T = TypeVar("T")

_LONGEST_S = 7 * 24 * 3600.0  # longest watch or gate; the trainer bounds a gate itself


class TrainerBackend:
    """v1.Trainer at "host:port". Every method raises TrainerError."""

    def __init__(self, target: str, timeout_s: float) -> None:
        self._channel = client.connect(target)
        self._stub = TrainerStub(self._channel)
        self._timeout_s = timeout_s

    async def start(self, config: str, overrides: Mapping[str, Any]) -> Run:
        values = {field: json.dumps(value) for field, value in overrides.items()}
        return codec.run_value(await self._call("StartRun", pb.StartRunRequest(config=config, overrides=values)))

    async def runs(self) -> list[Run]:
        return [codec.run_value(run) for run in (await self._call("ListRuns", pb.ListRunsRequest())).runs]

    async def run(self, id: str) -> Run:
        return codec.run_value(await self._call("GetRun", pb.RunRequest(id=id)))

    async def cancel(self, id: str) -> Run:
        return codec.run_value(await self._call("CancelRun", pb.RunRequest(id=id)))

    async def resume(self, id: str) -> Run:
        return codec.run_value(await self._call("ResumeRun", pb.RunRequest(id=id)))

    async def watch(self, id: str) -> AsyncGenerator[Run | TrainingStep, None]:
        async with aclosing(self._stream("WatchRun", pb.RunRequest(id=id))) as events:
            async for event in events:
                yield codec.run_event_value(event)

    async def promote(self, id: str, checkpoint: int, searcher: str) -> AsyncGenerator[GateProgress | Promotion, None]:
        request = pb.PromoteRequest(run=id, checkpoint=checkpoint, searcher=searcher)
        async with aclosing(self._stream("Promote", request)) as events:
            async for event in events:
                yield codec.promote_event_value(event)

    async def rollback(self, searcher: str) -> Promotion:
        return codec.promotion_value(await self._call("Rollback", pb.RollbackRequest(searcher=searcher)))

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, name: str, request: Any) -> Any:
        return await client.call(getattr(self._stub, name), request, self._timeout_s, TrainerError)

    def _stream(self, name: str, request: Any) -> AsyncGenerator[Any, None]:
        return client.stream(getattr(self._stub, name), request, _LONGEST_S, TrainerError)


class StartRequest(Request):
    """`config` is a configuration's name or its text as YAML; `overrides` replace its dotted fields."""

    config: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100_000)]
    overrides: dict[str, Any] = Field(default_factory=dict, examples=[{"seed": 2, "data.keep": "all"}])


class PromoteRequest(Request):
    """`checkpoint` is its step, the newest if left out. `searcher` is who is replaced: the one that the run's
    method asks if left out. With `stream`, Server-Sent Events: progress, done, error."""

    checkpoint: Annotated[int, Field(ge=1)] | None = None
    searcher: str = ""
    stream: bool = False


class RollbackRequest(Request):
    searcher: str = ""


class Out(BaseModel):
    """A response, made of a value whose attributes it names."""

    model_config = ConfigDict(from_attributes=True)


class RunOut(Out):
    """`config` is YAML, empty in lists; `checkpoints` are steps."""

    id: str
    state: RunState
    created_at: str
    changed_at: str
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
    """`model` serves now, `before` did until now."""

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


def routes(trainer: TrainerBackend | None) -> APIRouter:
    """Returns the routes; without a trainer each answers that there is none."""
    router = APIRouter(prefix="/v1", tags=["training"])

    def backend() -> TrainerBackend:
        if trainer is None:
            raise problems.NotConfigured("no trainer is configured (GATEWAY_TRAINER)")
        return trainer

    @router.post("/runs", status_code=201, response_model=RunOut)
    async def start(body: StartRequest) -> Run:
        """Starts a training run."""
        return await _counted(backend().start(body.config, body.overrides))

    @router.get("/runs", response_model=list[RunOut])
    async def runs() -> list[Run]:
        """All runs, newest first."""
        return await _counted(backend().runs())

    @router.get("/runs/{id}", response_model=RunOut)
    async def run(id: str) -> Run:
        """A run with its configuration."""
        return await _counted(backend().run(id))

    @router.post("/runs/{id}/cancel", response_model=RunOut)
    async def cancel(id: str) -> Run:
        """Asks the run to stop; it is cancelled once its process has ended."""
        return await _counted(backend().cancel(id))

    @router.post("/runs/{id}/resume", response_model=RunOut)
    async def resume(id: str) -> Run:
        """Continues an interrupted run from its newest checkpoint."""
        return await _counted(backend().resume(id))

    @router.get("/runs/{id}/events")
    async def events(id: str) -> StreamingResponse:
        """Server-Sent Events `run` and `step`: all so far, then new ones until the run has ended."""
        return await _streamed(backend().watch(id))

    @router.post("/runs/{id}/promote", response_model=PromotionOut)
    async def promote(id: str, body: PromoteRequest) -> Any:
        """Puts a checkpoint in the searcher's place if it passes the gate.

        Leaving a stream stops the gate; the next request continues it.
        """
        answers = backend().promote(id, body.checkpoint or 0, body.searcher)
        return await (_streamed(answers) if body.stream else _counted(_promotion(answers)))

    @router.post("/rollback", response_model=RollbackOut)
    async def rollback(body: RollbackRequest) -> Promotion:
        """Restores what the searcher's latest promotion replaced."""
        return await _counted(backend().rollback(body.searcher))

    return router


async def _promotion(events: AsyncGenerator[GateProgress | Promotion, None]) -> Promotion:
    """Waits for the last event."""
    async for event in events:
        if isinstance(event, Promotion):
            return event
    raise TrainerError(Failure.BROKEN, "the promotion ended without a result")


async def _counted(call: Awaitable[T]) -> T:
    """Waits for a call to the trainer, and counts its failure."""
    try:
        return await call
    except BoundaryError as error:
        count_failure(error)
        raise


def _event(value: object) -> str:
    name, out = _OUT[type(value)]
    return sse(name, out.model_validate(value))


async def _streamed(events: AsyncGenerator[Any, None]) -> StreamingResponse:
    """Streams the events as they come. A failure before the first one is an ordinary problem, not an event."""
    try:
        first = await _counted(anext(events))
    except StopAsyncIteration:
        raise TrainerError(Failure.BROKEN, "the stream ended before it began") from None

    async def stream() -> AsyncIterator[str]:
        try:
            async with aclosing(events):  # the caller leaving ends the call
                yield _event(first)
                async for event in events:
                    yield _event(event)
        except BoundaryError as error:
            count_failure(error)
            yield sse("error", problems.of_boundary(error))
        except Exception:
            log.exception("stream crashed")
            yield sse("error", problems.problem(500, problems.CRASH))

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
