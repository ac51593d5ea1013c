"""A checkpoint is promoted into the searcher of a running stack and rolled back while questions are asked."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from common import model_card
from common.backends import GrpcPolicy
from common.run_config import load
from common.training import Run, RunState
from deploy.local import ADAPTERS, Stack
from search_agent.grading import answers
from services.trainer.runs import Runs
from tests.lora import write_peft
from tests.waiting import LIMIT_S, until

# Enough of them that the gate does not turn on a greedy answer that depends on its batch.
QUESTIONS = [
    "What is a normal force?",
    "Who wrote Faerie Queene?",
    "What is the Rhine?",
    "What do prime numbers have to do with cryptography?",
    "What is a computational problem?",
    "Why is oxygen needed for combustion?",
]


# One turn: greedy answers of random weights differ between batches, and every further turn adds to that. Short prompts,
# because reading them takes most of the test's time.
SHORT = {
    "agent_parameters.observation_chars": 300,
    "agent_parameters.max_selected": 1,
    "agent_parameters.max_turns": 1,
}


@pytest.fixture(scope="module")
def run(stack: Stack) -> Run:
    """Writes a run that has ended, as a cluster would leave it. Its checkpoint is a LoRA of random weights."""
    runs = Runs(stack.logs / "runs")
    settings = load(
        "smollm2-demo",
        {
            "gate.questions": str(stack.logs / "held-out.jsonl"),
            "gate.part": [0, 1],
            "gate.limit": None,
            **SHORT,
            "agent_parameters.top_k": 4,
            "reward.answer_tokens": 16,
            "retriever": f"127.0.0.1:{stack.ports['retriever']}",
            "generator": stack.model("reader"),
        },
    )
    run = runs.create(settings)
    write_peft(runs.path(run.id) / "checkpoints" / "global_step_20" / "lora_adapter")
    return runs.move(run, RunState.FINISHED)


def top_k(stack: Stack) -> int:
    """Returns how many passages the gateway's s3 looks at."""
    (s3,) = (each for each in httpx.get(f"{stack.url}/v1/methods", timeout=LIMIT_S).json() if each["name"] == "s3")
    return int(s3["parameters"]["properties"]["top_k"]["default"])


@pytest.fixture
def taught(stack: Stack, run: Run, tmp_path: Path) -> Iterator[None]:
    """Serves the demo's searcher with a card that asks for short prompts, since the gate asks it as it was taught."""
    adapter = Path(shutil.copytree(ADAPTERS / "searcher", tmp_path / "searcher"))
    card = load("smollm2-demo", {**SHORT, "agent_parameters.top_k": 3}).card()
    model_card.write(adapter, card)

    async def serve(adapter: Path) -> None:
        searcher = GrpcPolicy(stack.model("searcher"), LIMIT_S)
        try:
            await searcher.load("", str(adapter))
        finally:
            await searcher.close()

    before = top_k(stack)
    asyncio.run(serve(adapter))
    until(lambda: top_k(stack) == 3)  # the gateway follows the searcher within a second
    yield
    asyncio.run(serve(ADAPTERS / "searcher"))
    until(lambda: top_k(stack) == before)


PAUSE_S = 1.0  # between questions beside the gate, so that most of the time is the gate's


class Asking:
    """Asks questions one after another beside the test."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self.failed: list[str] = []
        self.models: list[list[str]] = []

    def ask(self) -> None:
        short = {"max_turns": 1, "top_k": 2, "observation_chars": 300, "max_selected": 1}
        while not self._stop.wait(PAUSE_S):
            response = httpx.post(
                f"{self._url}/v1/answer", json={"question": "Who was born in Warsaw?", **short}, timeout=LIMIT_S
            )
            if response.status_code == 200:
                self.models.append(response.json()["models"])
            else:
                self.failed.append(response.text)

    def until(self, model: str) -> None:
        """Waits for an answer that starts from now on and has this searcher's passages."""
        asked = len(self.models)
        until(lambda: any(models[0] == model for models in self.models[asked:]))

    @contextmanager
    def going_on(self) -> Iterator[None]:
        thread = threading.Thread(target=self.ask)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def promote(stack: Stack, run: Run) -> dict[str, Any]:
    response = httpx.post(f"{stack.url}/v1/runs/{run.id}/promote", json={}, timeout=4 * LIMIT_S)
    assert response.status_code == 200, response.text
    return dict(response.json())


def hold_out(stack: Stack, golds: dict[str, str]) -> None:
    """Writes the gate's questions, each with one gold answer."""
    lines = [
        {"id": str(number), "question": question, "golden_answers": [golds[str(number)]]}
        for number, question in enumerate(QUESTIONS)
        if str(number) in golds
    ]
    (stack.logs / "held-out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def answers_of(stack: Stack, run: Run) -> dict[str, dict[str, str]]:
    """Returns each searcher's answers in the run's gates, by question."""
    found: dict[str, dict[str, str]] = {}
    for path in (stack.logs / "runs" / run.id / "gates").glob("*.jsonl"):
        for row in map(json.loads, path.read_bytes().splitlines()):
            found.setdefault(row["searcher"], {})[row["id"]] = row["answered"]["answer"]
    return found


def test_promotion_and_rollback_while_questions_go_on(stack: Stack, run: Run, taught: None) -> None:
    hold_out(stack, {str(number): "no such answer" for number in range(len(QUESTIONS))})
    refused = promote(stack, run)
    base = refused["before"]
    assert (refused["promoted"], refused["model"], refused["gate"]["outcome"]) == (False, base, "not_better")
    assert (refused["gate"]["compared"], refused["gate"]["failed"]) == (len(QUESTIONS), 0)

    # Random weights are no better than what is served, except on questions whose gold answers are their own.
    sides = answers_of(stack, run)
    ours = sides.pop(base)
    ((noise, theirs),) = sides.items()
    assert noise != base
    assert noise.startswith(base.partition("+")[0] + "+")  # another adapter of the same model
    golds = {
        id: answer for id, answer in theirs.items() if answers.normalise(answer) not in answers.normalise(ours[id])
    }
    assert golds
    hold_out(stack, golds)

    asking = Asking(stack.url)
    with asking.going_on():
        done = promote(stack, run)
        assert (done["promoted"], done["before"], done["model"]) == (True, base, noise), done
        asking.until(noise)
        until(lambda: top_k(stack) == 4)  # the parameters come and go with the model
        back = httpx.post(f"{stack.url}/v1/rollback", json={}, timeout=LIMIT_S).json()
        asking.until(base)
    assert done["gate"]["compared"] == len(golds)
    assert done["gate"]["low"] > 0
    assert (back["model"], back["before"]) == (base, noise)
    assert asking.failed == []
    until(lambda: top_k(stack) == 3)
