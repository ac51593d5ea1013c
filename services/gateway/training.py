"""Routes of the REST contract over the trainer: runs, promotion, rollback."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated, Any

import structlog
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, StringConstraints

from common import client
from contracts.v1 import trainer_pb2 as pb
from contracts.v1.trainer_pb2_grpc import TrainerStub
from search_agent.errors import BoundaryError, Failure, TrainerError
from services.gateway import problems
from services.gateway.asking import count_failure
from services.gateway.schemas import Request
from services.gateway.sse import sse

log = structlog.get_logger()

_LONGEST_S = 7 * 24 * 3600.0  # of a watch and of a gate, which the trainer bounds itself


class TrainerBackend:
    """v1.Trainer at "host:port". Every method raises TrainerError."""

    def __init__(self, target: str, timeout_s: float) -> None:
        self._channel = client.connect(target)
        self._stub = TrainerStub(self._channel)
        self._timeout_s = timeout_s

    async def call(self, name: str, request: Any) -> Any:
        return await client.call(getattr(self._stub, name), request, self._timeout_s, TrainerError)

    def stream(self, name: str, request: Any) -> AsyncGenerator[Any, None]:
        return client.stream(getattr(self._stub, name), request, _LONGEST_S, TrainerError)

    async def close(self) -> None:
        await self._channel.close()


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


class RunOut(BaseModel):
    """`config` is YAML, empty in lists; `checkpoints` are steps."""

    id: str
    state: str
    created_at: str
    changed_at: str
    reason: str
    config: str
    checkpoints: list[int]

    @classmethod
    def of(cls, run: pb.Run) -> RunOut:
        return cls(
            id=run.id,
            state=pb.RunState.Name(run.state).lower(),
            created_at=run.created_at,
            changed_at=run.changed_at,
            reason=run.reason,
            config=run.config,
            checkpoints=list(run.checkpoints),
        )


class StepOut(BaseModel):
    """Numbers by "GROUP/WHAT", the groups and labels of the metrics `search_agent_training_…`."""

    step: int
    metrics: dict[str, float]


class ProgressOut(BaseModel):
    """Answers of both models together."""

    done: int
    failed: int
    total: int


class GateOut(BaseModel):
    """`candidate`, `current`, `difference` with its 95 % interval `low` to `high`, and `margin` are GenAcc, 0 to 1."""

    outcome: str
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

    @classmethod
    def of(cls, gate: pb.Gate) -> GateOut:
        figures = {name: getattr(gate, name) for name in cls.model_fields if name != "outcome"}
        return cls(outcome=pb.Gate.Outcome.Name(gate.outcome).lower(), **figures)


class PromotionOut(BaseModel):
    """`model` serves now, `before` until now. `promoted` is false where the gate was not passed."""

    promoted: bool
    searcher: str
    model: str
    before: str
    run: str
    checkpoint: int
    at: str
    gate: GateOut

    @classmethod
    def of(cls, promotion: pb.Promotion) -> PromotionOut:
        return cls(
            promoted=promotion.gate.outcome == pb.Gate.PASSED,
            searcher=promotion.searcher,
            model=promotion.model,
            before=promotion.before,
            run=promotion.run,
            checkpoint=promotion.checkpoint,
            at=promotion.at,
            gate=GateOut.of(promotion.gate),
        )


class RollbackOut(BaseModel):
    """`model` serves again, `before` until now."""

    searcher: str
    model: str
    before: str
    at: str


def routes(trainer: TrainerBackend | None) -> APIRouter:
    """The routes; without a trainer each answers that there is none."""
    router = APIRouter(prefix="/v1", tags=["training"])

    def backend() -> TrainerBackend:
        if trainer is None:
            raise problems.NotConfigured("no trainer is configured (GATEWAY_TRAINER)")
        return trainer

    async def call(name: str, request: Any) -> Any:
        try:
            return await backend().call(name, request)
        except BoundaryError as error:
            count_failure(error)
            raise

    @router.post("/runs", status_code=201)
    async def start(body: StartRequest) -> RunOut:
        """Starts a training run."""
        overrides = {field: json.dumps(value) for field, value in body.overrides.items()}
        return RunOut.of(await call("StartRun", pb.StartRunRequest(config=body.config, overrides=overrides)))

    @router.get("/runs")
    async def runs() -> list[RunOut]:
        """All runs, newest first."""
        return [RunOut.of(run) for run in (await call("ListRuns", pb.ListRunsRequest())).runs]

    @router.get("/runs/{id}")
    async def run(id: str) -> RunOut:
        """A run with its configuration."""
        return RunOut.of(await call("GetRun", pb.RunRequest(id=id)))

    @router.post("/runs/{id}/cancel")
    async def cancel(id: str) -> RunOut:
        """Tells the run to stop; it is cancelled when its process has ended."""
        return RunOut.of(await call("CancelRun", pb.RunRequest(id=id)))

    @router.post("/runs/{id}/resume")
    async def resume(id: str) -> RunOut:
        """A run that broke off goes on from its newest checkpoint."""
        return RunOut.of(await call("ResumeRun", pb.RunRequest(id=id)))

    @router.get("/runs/{id}/events")
    async def events(id: str) -> StreamingResponse:
        """Server-Sent Events `run` and `step`: all there were, then what comes, until the run has ended."""

        def named(event: pb.RunEvent) -> tuple[str, BaseModel]:
            if event.WhichOneof("event") == "run":
                return "run", RunOut.of(event.run)
            return "step", StepOut(step=event.step.step, metrics=dict(event.step.metrics))

        return await _streamed(backend().stream("WatchRun", pb.RunRequest(id=id)), named)

    @router.post("/runs/{id}/promote", response_model=PromotionOut)
    async def promote(id: str, body: PromoteRequest) -> Any:
        """Puts a checkpoint in the searcher's place if it passes the gate.

        Leaving a stream stops the gate; asked again, it goes on where it stopped.
        """
        request = pb.PromoteRequest(run=id, checkpoint=body.checkpoint or 0, searcher=body.searcher)
        answers = backend().stream("Promote", request)

        def named(event: pb.PromoteEvent) -> tuple[str, BaseModel]:
            if event.WhichOneof("event") == "promotion":
                return "done", PromotionOut.of(event.promotion)
            progress = event.progress
            return "progress", ProgressOut(done=progress.done, failed=progress.failed, total=progress.total)

        if body.stream:
            return await _streamed(answers, named)
        try:
            async for event in answers:
                name, out = named(event)
                if name == "done":
                    return out
        except BoundaryError as error:
            count_failure(error)
            raise
        raise TrainerError(Failure.BROKEN, "the promotion ended without a result")

    @router.post("/rollback")
    async def rollback(body: RollbackRequest) -> RollbackOut:
        """Puts back what the searcher's latest promotion replaced."""
        done = await call("Rollback", pb.RollbackRequest(searcher=body.searcher))
        return RollbackOut(searcher=done.searcher, model=done.model, before=done.before, at=done.at)

    return router


async def _streamed(
    events: AsyncGenerator[Any, None], named: Callable[[Any], tuple[str, BaseModel]]
) -> StreamingResponse:
    """The events as they come. What fails before the first one is an ordinary problem, and not an event."""
    try:
        first = await anext(events)
    except BoundaryError as error:
        count_failure(error)
        raise
    except StopAsyncIteration:
        raise TrainerError(Failure.BROKEN, "the stream ended before it began") from None

    async def stream() -> AsyncIterator[str]:
        try:
            async with aclosing(events):  # the caller leaving ends the call
                yield sse(*named(first))
                async for event in events:
                    yield sse(*named(event))
        except BoundaryError as error:
            count_failure(error)
            yield sse("error", problems.of_boundary(error))
        except Exception:
            log.exception("stream crashed")
            yield sse("error", problems.problem(500, problems.CRASH))

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
