"""The trainer's values survive the wire."""

from __future__ import annotations

import pytest

from common.codecs import trainer as codec
from common.training import GateOutcome, GateProgress, Promotion, Run, RunState, TrainingStep, Verdict

VERDICT = Verdict(GateOutcome.NOT_BETTER, "+1.0 points", 50, 48, 2, 0.01, 0.5, 0.25, 0.25, -0.125, 0.5, 12, 0, 0.125)


@pytest.mark.parametrize("state", RunState)
def test_a_run_of_every_state(state: RunState) -> None:
    run = Run("demo-1", state, "t0", "t1", reason="why", config="name: demo\n", checkpoints=(4, 8))
    assert codec.run_of(codec.run_message(run)) == run


@pytest.mark.parametrize("event", [Run("demo-1", RunState.RUNNING, "t0", "t1"), TrainingStep(3, {"reward/gain": 0.5})])
def test_events_of_a_run(event: Run | TrainingStep) -> None:
    assert codec.run_event_of(codec.run_event_message(event)) == event


@pytest.mark.parametrize(
    "event",
    [
        GateProgress(3, 1, 16),
        Promotion("searcher", "m@2", "m@1", "t0", "demo-1", 20, VERDICT),
        Promotion("searcher", "m@1", "m@2", "t0"),
    ],
)
def test_events_of_a_promotion(event: GateProgress | Promotion) -> None:
    assert codec.promote_event_of(codec.promote_event_message(event)) == event


@pytest.mark.parametrize("outcome", GateOutcome)
def test_only_a_passed_gate_promotes(outcome: GateOutcome) -> None:
    promotion = Promotion("searcher", "m@2", "m@1", "t0", "demo-1", 20, Verdict(outcome, "", 1, 1, 0, 0.0))
    assert codec.promotion_of(codec.promotion_message(promotion)) == promotion
    assert promotion.promoted is (outcome is GateOutcome.PASSED)
