"""Routes of training runs: a thin door to the trainer service."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from contracts.v1 import trainer_pb2 as pb
from search_agent.errors import BoundaryError
from services.gateway import problems, schemas, sse


class TrainerBackend(Protocol):
    """Raises TrainerError."""

    async def start(self, config: str, overrides: Mapping[str, str]) -> pb.Run: ...

    async def run(self, id: str) -> pb.Run: ...

    async def runs(self) -> Sequence[pb.Run]: ...

    def watch(self, id: str) -> AsyncIterator[pb.RunEvent]: ...

    async def cancel(self, id: str) -> pb.Run: ...

    async def resume(self, id: str) -> pb.Run: ...

    async def promote(self, id: str, checkpoint: int) -> pb.Promotion: ...

    async def rollback(self) -> pb.Serving: ...


def routes(trainer: TrainerBackend | None) -> APIRouter:
    """`trainer` is None where no trainer is configured: then each route says so."""
    router = APIRouter(prefix="/v1", tags=["training"])

    def there() -> TrainerBackend:
        if trainer is None:
            raise problems.NotConfigured("no trainer is configured (GATEWAY_TRAINER)")
        return trainer

    @router.post("/runs", status_code=201)
    async def start(body: schemas.StartRunRequest) -> schemas.RunOut:
        """Starts a training run, of a built-in configuration or of one's own as YAML."""
        overrides = {name: json.dumps(value) for name, value in body.overrides.items()}
        return schemas.RunOut.of(await there().start(body.config, overrides))

    @router.get("/runs")
    async def runs() -> list[schemas.RunOut]:
        """All runs, newest first."""
        return [schemas.RunOut.of(run) for run in await there().runs()]

    @router.get("/runs/{id}")
    async def run(id: str) -> schemas.RunOut:
        """One run."""
        return schemas.RunOut.of(await there().run(id))

    @router.get("/runs/{id}/events")
    async def events(id: str) -> StreamingResponse:
        """Server-Sent Events: `step` with metrics, for all steps so far and then as they come, and `state`."""
        backend = there()
        await backend.run(id)  # an unknown run is a problem, and no stream

        async def stream() -> AsyncIterator[str]:
            try:
                async for event in backend.watch(id):
                    if event.metrics:
                        yield sse.event("step", {"step": event.step, "metrics": dict(event.metrics)})
                    else:
                        yield sse.event("state", schemas.RunOut.of(event.run))
            except BoundaryError as error:
                yield sse.event("error", problems.of_boundary(error))

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @router.post("/runs/{id}/cancel")
    async def cancel(id: str) -> schemas.RunOut:
        """Stops a run; it can be resumed."""
        return schemas.RunOut.of(await there().cancel(id))

    @router.post("/runs/{id}/resume")
    async def resume(id: str) -> schemas.RunOut:
        """Goes on with a run from its newest checkpoint."""
        return schemas.RunOut.of(await there().resume(id))

    @router.post("/runs/{id}/promote")
    async def promote(id: str, body: schemas.PromoteRequest) -> schemas.PromotionOut:
        """Holds a checkpoint against the searcher that serves, and serves it if it is better."""
        found = await there().promote(id, body.checkpoint)
        return schemas.PromotionOut(gate=schemas.GateOut.of(found.gate), serving=_serving(found.serving))

    @router.post("/rollback")
    async def rollback() -> schemas.ServingOut:
        """Serves what was served before the last promotion."""
        return _serving(await there().rollback())

    return router


def _serving(found: pb.Serving) -> schemas.ServingOut:
    return schemas.ServingOut(model=found.model, adapter=found.adapter)
