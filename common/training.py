"""The values of v1.Trainer: runs, their steps, and promotions with the gate's verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

STOPPED_BY_ITSELF = 3  # exit status of a training process that ended itself; RUN/reason.txt says why


class RunState(StrEnum):
    QUEUED = "queued"  # Ray has accepted the job and has not started it
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # it ended itself, and the reason says why
    FAILED = "failed"  # it crashed
    CANCELLED = "cancelled"
    DAMAGED = "damaged"  # its record cannot be read, and the reason says what to do

    @property
    def ended(self) -> bool:
        return self not in (RunState.QUEUED, RunState.RUNNING)


@dataclass(frozen=True, slots=True)
class Run:
    """A training run.

    Times are RFC 3339 in UTC, so that they sort as text. `jobs` counts the jobs that were submitted for it. A list of
    runs leaves `config` (YAML, resolved) empty; `checkpoints` are steps, ascending.
    """

    id: str
    state: RunState
    created_at: str
    changed_at: str
    jobs: int = 1
    reason: str = ""
    config: str = ""
    checkpoints: tuple[int, ...] = ()

    @property
    def job(self) -> str:
        """The id of the latest job."""
        return f"{self.id}-{self.jobs}"


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The metrics of one training step, named "GROUP/NAME" as on the dashboard."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class GateProgress:
    """How far the gate is, counted in answers of both searchers together."""

    done: int
    failed: int
    total: int


class GateOutcome(StrEnum):
    PASSED = "passed"
    NOT_BETTER = "not_better"
    INCONCLUSIVE = "inconclusive"  # too many questions failed, or the time was up


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision over `asked` questions.

    `compared` of them were answered by both searchers, `failed` were not. All figures from `candidate` on are over the
    compared questions, and 0 if there are none: GenAcc of both searchers, the difference with its 95 % bootstrap
    interval from `low` to `high`, and the exact sign test's `p` over `wins` and `losses`. `margin` is the difference
    that the run asks for. GenAcc and its differences are shares from 0 to 1.
    """

    outcome: GateOutcome
    reason: str
    asked: int
    compared: int
    failed: int
    margin: float
    candidate: float = 0.0
    current: float = 0.0
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    wins: int = 0
    losses: int = 0
    p: float = 0.0


@dataclass(frozen=True, slots=True)
class Promotion:
    """The outcome of a promotion, or of a rollback, which has neither run nor gate.

    Models are "name@version": `model` serves now, and `before` did until now. The two are equal if the gate was not
    passed.
    """

    searcher: str
    model: str
    before: str
    at: str
    run: str = ""
    checkpoint: int = 0
    gate: Verdict | None = None

    @property
    def promoted(self) -> bool:
        return self.gate is not None and self.gate.outcome is GateOutcome.PASSED
