"""v1.Trainer's messages."""

from __future__ import annotations

from common.codecs import fields_of, value_of
from common.training import GateOutcome, GateProgress, Promotion, Run, RunState, TrainingStep, Verdict
from contracts.v1 import trainer_pb2 as pb


def run_message(run: Run) -> pb.Run:
    fields = fields_of(run, state=pb.RunState.Value(run.state.name))
    del fields["jobs"]  # the trainer keeps it to itself
    return pb.Run(**fields)


def run_of(message: pb.Run) -> Run:
    state = RunState[pb.RunState.Name(message.state)]
    return value_of(Run, message, state=state, checkpoints=tuple(message.checkpoints), jobs=1)


def run_event_message(event: Run | TrainingStep) -> pb.RunEvent:
    if isinstance(event, Run):
        return pb.RunEvent(run=run_message(event))
    return pb.RunEvent(step=pb.Step(**fields_of(event)))


def run_event_of(message: pb.RunEvent) -> Run | TrainingStep:
    if message.WhichOneof("event") == "run":
        return run_of(message.run)
    return value_of(TrainingStep, message.step, metrics=dict(message.step.metrics))


def promotion_message(promotion: Promotion) -> pb.Promotion:
    gate = None
    if verdict := promotion.gate:
        gate = pb.Gate(**fields_of(verdict, outcome=pb.Gate.Outcome.Value(verdict.outcome.name)))
    return pb.Promotion(**fields_of(promotion, gate=gate))


def promotion_of(message: pb.Promotion) -> Promotion:
    gate = None
    if message.HasField("gate"):
        gate = value_of(Verdict, message.gate, outcome=GateOutcome[pb.Gate.Outcome.Name(message.gate.outcome)])
    return value_of(Promotion, message, gate=gate)


def promote_event_message(event: GateProgress | Promotion) -> pb.PromoteEvent:
    if isinstance(event, GateProgress):
        return pb.PromoteEvent(progress=pb.GateProgress(**fields_of(event)))
    return pb.PromoteEvent(promotion=promotion_message(event))


def promote_event_of(message: pb.PromoteEvent) -> GateProgress | Promotion:
    if message.WhichOneof("event") == "promotion":
        return promotion_of(message.promotion)
    return value_of(GateProgress, message.progress)
