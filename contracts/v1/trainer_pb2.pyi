from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    QUEUED: _ClassVar[RunState]
    RUNNING: _ClassVar[RunState]
    FINISHED: _ClassVar[RunState]
    STOPPED: _ClassVar[RunState]
    FAILED: _ClassVar[RunState]
    CANCELLED: _ClassVar[RunState]
    DAMAGED: _ClassVar[RunState]
RUN_STATE_UNSPECIFIED: RunState
QUEUED: RunState
RUNNING: RunState
FINISHED: RunState
STOPPED: RunState
FAILED: RunState
CANCELLED: RunState
DAMAGED: RunState

class StartRunRequest(_message.Message):
    __slots__ = ("config", "overrides")
    class OverridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    config: str
    overrides: _containers.ScalarMap[str, str]
    def __init__(self, config: _Optional[str] = ..., overrides: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("id", "state", "created_at", "changed_at", "reason", "config", "checkpoints")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: RunState
    created_at: str
    changed_at: str
    reason: str
    config: str
    checkpoints: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., created_at: _Optional[str] = ..., changed_at: _Optional[str] = ..., reason: _Optional[str] = ..., config: _Optional[str] = ..., checkpoints: _Optional[_Iterable[int]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("step", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    step: int
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, step: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("run", "step")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    run: Run
    step: Step
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("run", "checkpoint", "searcher")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    SEARCHER_FIELD_NUMBER: _ClassVar[int]
    run: str
    checkpoint: int
    searcher: str
    def __init__(self, run: _Optional[str] = ..., checkpoint: _Optional[int] = ..., searcher: _Optional[str] = ...) -> None: ...

class GateProgress(_message.Message):
    __slots__ = ("done", "failed", "total")
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    done: int
    failed: int
    total: int
    def __init__(self, done: _Optional[int] = ..., failed: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class Gate(_message.Message):
    __slots__ = ("outcome", "reason", "asked", "compared", "failed", "candidate", "current", "difference", "low", "high", "margin", "wins", "losses", "p")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Gate.Outcome]
        PASSED: _ClassVar[Gate.Outcome]
        NOT_BETTER: _ClassVar[Gate.Outcome]
        INCONCLUSIVE: _ClassVar[Gate.Outcome]
    OUTCOME_UNSPECIFIED: Gate.Outcome
    PASSED: Gate.Outcome
    NOT_BETTER: Gate.Outcome
    INCONCLUSIVE: Gate.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    WINS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    P_FIELD_NUMBER: _ClassVar[int]
    outcome: Gate.Outcome
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
    def __init__(self, outcome: _Optional[_Union[Gate.Outcome, str]] = ..., reason: _Optional[str] = ..., asked: _Optional[int] = ..., compared: _Optional[int] = ..., failed: _Optional[int] = ..., candidate: _Optional[float] = ..., current: _Optional[float] = ..., difference: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., margin: _Optional[float] = ..., wins: _Optional[int] = ..., losses: _Optional[int] = ..., p: _Optional[float] = ...) -> None: ...

class Promotion(_message.Message):
    __slots__ = ("searcher", "model", "before", "run", "checkpoint", "gate", "at")
    SEARCHER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    searcher: str
    model: str
    before: str
    run: str
    checkpoint: int
    gate: Gate
    at: str
    def __init__(self, searcher: _Optional[str] = ..., model: _Optional[str] = ..., before: _Optional[str] = ..., run: _Optional[str] = ..., checkpoint: _Optional[int] = ..., gate: _Optional[_Union[Gate, _Mapping]] = ..., at: _Optional[str] = ...) -> None: ...

class PromoteEvent(_message.Message):
    __slots__ = ("progress", "promotion")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_FIELD_NUMBER: _ClassVar[int]
    progress: GateProgress
    promotion: Promotion
    def __init__(self, progress: _Optional[_Union[GateProgress, _Mapping]] = ..., promotion: _Optional[_Union[Promotion, _Mapping]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("searcher",)
    SEARCHER_FIELD_NUMBER: _ClassVar[int]
    searcher: str
    def __init__(self, searcher: _Optional[str] = ...) -> None: ...
