"""A bounded share of what `python -m tests.fuzz` sends: no crash, and only what the contracts tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor

from tests.fuzz import calls, rest
from tests.fuzz.served import Stack, memory_mb


@pytest.mark.parametrize("method", calls.METHODS, ids=lambda method: method.full_name)
def test_a_grpc_call_is_answered_or_refused(stack: Stack, method: MethodDescriptor) -> None:
    calls.fuzz(stack, method, examples=40)


def test_rest_keeps_to_its_openapi(stack: Stack, folder: Path) -> None:
    before = memory_mb(stack.pid)
    status, report = rest.fuzz(stack, folder, examples=3, timeout_s=240)
    assert status == 0, report
    assert rest.answered(stack).keys() <= {"200", "201", "202", *map(str, range(400, 500))}
    assert memory_mb(stack.pid) < before + 200
