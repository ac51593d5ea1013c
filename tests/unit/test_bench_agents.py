"""bench.agents: its barrier, and its GPU samples from a program in nvidia-smi's place."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from bench.agents import LockStep, gpu_use


def test_gpu_use_is_what_was_printed_while_it_was_entered(tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    says = "import pathlib, sys, time; print('12\\n[N/A]\\n34', flush=True); "
    program = f"{says}pathlib.Path({str(printed)!r}).touch(); time.sleep(60)"
    with gpu_use([sys.executable, "-c", program]) as percent:
        while not printed.exists():
            time.sleep(0.01)
    assert percent == [12, 34]


def test_without_the_program_nothing_is_sampled() -> None:
    with gpu_use(["there-is-no-such-program"]) as percent:
        pass
    assert percent == []


def test_in_lock_step_no_call_begins_before_all_wait() -> None:
    began: list[str] = []

    async def work(name: str) -> str:
        began.append(name)
        return name

    async def play() -> None:
        barrier = LockStep(3)
        first = asyncio.create_task(barrier.call(work("first")))
        second = asyncio.create_task(barrier.call(work("second")))
        await asyncio.sleep(0.01)
        assert began == []
        barrier.leave()  # the third has left, so the step waits for the other two
        assert await asyncio.gather(first, second) == ["first", "second"]

    asyncio.run(play())
    assert sorted(began) == ["first", "second"]


def test_a_failure_in_lock_step_is_that_callers_own() -> None:
    async def fails() -> None:
        raise ValueError("mine")

    async def works() -> str:
        return "done"

    async def play() -> None:
        barrier = LockStep(2)
        calls = [asyncio.ensure_future(barrier.call(fails())), asyncio.ensure_future(barrier.call(works()))]
        with pytest.raises(ValueError, match="mine"):
            await calls[0]
        assert await calls[1] == "done"

    asyncio.run(play())
