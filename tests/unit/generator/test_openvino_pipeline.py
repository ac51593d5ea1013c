"""The thread that works with an OpenVINO pipeline, over a pipeline that writes what the test says."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from search_agent.types import Sampling
from services.generator.library_engine import Dead
from services.generator.openvino_pipeline import Job, Pipeline
from tests.waiting import LIMIT_S

END = 2


class Handle:
    """Writes as many tokens as it is asked for."""

    def __init__(self, tokens: int) -> None:
        self.left, self.written, self.cancelled = tokens, 0, False

    def can_read(self) -> bool:
        return self.written > 0

    def read(self) -> dict[int, Any]:
        from openvino_genai import GenerationFinishReason as Reason

        ids, self.written = [7] * self.written, 0
        return {0: SimpleNamespace(generated_ids=ids, finish_reason=Reason.NONE if self.left else Reason.LENGTH)}

    def get_status(self) -> Any:
        from openvino_genai import GenerationStatus

        return GenerationStatus.RUNNING

    def cancel(self) -> None:
        self.cancelled = True


class Library:
    """A pipeline that refuses prompts of one token, and fails in a step if it has read a prompt of two."""

    def __init__(self) -> None:
        self.handles: list[Handle] = []
        self.most = 0  # handles that were at work in one step

    def add_request(self, number: int, prompt: Any, config: Any) -> Handle:
        length = prompt.shape[1]
        if length == 1:
            raise RuntimeError("too short")
        self.fails = length == 2
        self.handles.append(Handle(config.max_new_tokens))
        return self.handles[-1]

    def _at_work(self) -> list[Handle]:
        return [handle for handle in self.handles if handle.left and not handle.cancelled]

    def has_non_finished_requests(self) -> bool:
        return bool(self._at_work())

    def step(self) -> None:
        if self.fails:
            raise RuntimeError("no memory")
        self.most = max(self.most, len(self._at_work()))
        for handle in self._at_work():
            handle.left, handle.written = handle.left - 1, handle.written + 1


class Asked:
    """A job, and all that it was told."""

    def __init__(self, pipeline: Pipeline, prompt: int, tokens: int) -> None:
        self._told: SimpleQueue[tuple[list[int], str, Exception | None]] = SimpleQueue()
        self.job = Job([0] * prompt, Sampling(tokens), lambda *piece: self._told.put(piece))
        pipeline.begin(self.job)

    def next(self) -> tuple[list[int], str, Exception | None]:
        return self._told.get(timeout=LIMIT_S)

    def result(self) -> tuple[int, Exception | None]:
        """The number of tokens, and the failure."""
        written = 0
        while True:
            ids, finish, failure = self.next()
            written += len(ids)
            if finish or failure:
                return written, failure


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def pipeline(library: Library) -> Iterator[Pipeline]:
    pipeline = Pipeline(library, END, parallel=2)
    yield pipeline
    pipeline.close()


def test_more_requests_than_run_at_once_wait_for_their_turn(pipeline, library):
    asked = [Asked(pipeline, 3, tokens) for tokens in (30, 40, 50, 60)]
    assert [each.result() for each in asked] == [(30, None), (40, None), (50, None), (60, None)]
    assert library.most == 2


def test_a_request_that_openvino_refuses_fails_alone(pipeline):
    long, refused = Asked(pipeline, 3, 1000), Asked(pipeline, 1, 5)
    assert str(refused.result()[1]) == "too short"
    assert long.result() == (1000, None)
    assert Asked(pipeline, 3, 5).result() == (5, None)


def test_a_step_that_fails_ends_all_requests_wherever_they_are(pipeline):
    running = Asked(pipeline, 3, 10**6)
    running.next()
    others = [Asked(pipeline, 2, 5) for _ in range(3)]  # the second and the third must wait
    assert [type(each.result()[1]) for each in (running, *others)] == [Dead] * 4
    assert pipeline.dead
    with pytest.raises(Dead):
        Asked(pipeline, 3, 1)


def test_a_request_that_nobody_waits_for_makes_room(pipeline, library):
    left = [Asked(pipeline, 3, 10**6) for _ in range(2)]
    for each in left:
        each.next()
        each.job.left = True
    assert Asked(pipeline, 3, 5).result() == (5, None)
    assert [handle.cancelled for handle in library.handles] == [True, True, False]
