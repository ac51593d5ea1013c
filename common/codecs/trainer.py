"""v1.Trainer's values as messages and back."""

from __future__ import annotations

from dataclasses import asdict, fields

from common.training import GateOutcome, GateProgress, Promotion, Run, RunState, TrainingStep, Verdict
from contracts.v1 import trainer_pb2 as pb


def run_message(run: Run) -> pb.Run:
    values = asdict(run)
    del values["jobs"]  # the trainer's own
    return pb.Run(**values | {"state": pb.RunState.Value(run.state.name)})


def run_value(message: pb.Run) -> Run:
    return Run(
        id=message.id,
        state=RunState[pb.RunState.Name(message.state)],
        created_at=message.created_at,
        changed_at=message.changed_at,
        reason=message.reason,
        config=message.config,
        checkpoints=tuple(message.checkpoints),
    )


def run_event_message(event: Run | TrainingStep) -> pb.RunEvent:
    if isinstance(event, Run):
        return pb.RunEvent(run=run_message(event))
    return pb.RunEvent(step=pb.Step(step=event.step, metrics=event.metrics))


def run_event_value(message: pb.RunEvent) -> Run | TrainingStep:
    if message.WhichOneof("event") == "run":
        return run_value(message.run)
    return TrainingStep(message.step.step, dict(message.step.metrics))


def promotion_message(promotion: Promotion) -> pb.Promotion:
    values = asdict(promotion)
    if gate := promotion.gate:
        values["gate"] |= {"outcome": pb.Gate.Outcome.Value(gate.outcome.name)}
    return pb.Promotion(**values)


def promotion_value(message: pb.Promotion) -> Promotion:
    values = {field.name: getattr(message, field.name) for field in fields(Promotion)}
    gate = None
    if message.HasField("gate"):
        figures = {field.name: getattr(message.gate, field.name) for field in fields(Verdict)}
        gate = Verdict(**figures | {"outcome": GateOutcome[pb.Gate.Outcome.Name(message.gate.outcome)]})
    return Promotion(**values | {"gate": gate})


def promote_event_message(event: GateProgress | Promotion) -> pb.PromoteEvent:
    if isinstance(event, GateProgress):
        return pb.PromoteEvent(progress=pb.GateProgress(**asdict(event)))
    return pb.PromoteEvent(promotion=promotion_message(event))


def promote_event_value(message: pb.PromoteEvent) -> GateProgress | Promotion:
    if message.WhichOneof("event") == "promotion":
        return promotion_value(message.promotion)
    return GateProgress(message.progress.done, message.progress.failed, message.progress.total)
