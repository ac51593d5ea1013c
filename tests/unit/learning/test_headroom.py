"""Head room is measured before training: what the samples of a question have that the greedy one has not."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from common import run_config
from common.run_config import StopConfig
from evaluation.errors import EvaluateProblem
from learning.headroom import Outcome, Plan, Sample, by_group, head_room, is_mixed, measure, rows
from search_agent.errors import Failure, SearcherError
from search_agent.types import Completion, ModelInfo, Question, Sampling, Span
from search_agent.world import World
from tests.fakes import Generator, Retriever

RUN = run_config.load("multihop", {"index": "demo"})
QUESTIONS = [
    Question(f"q{n}", f"What stands here, {n}?", ("an answer",), (("w1",), ("w2",)), groups={"hops": str(2 + n % 2)})
    for n in range(4)
]


class Searcher:
    """Keeps nothing greedily, and of four samples one keeps the first passage, one both, and one writes nonsense."""

    def __init__(self) -> None:
        self.asked = 0
        self.sampled = 0
        self.broken = False
        self.model = "searcher@1"

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        self.asked += 1
        if self.broken and self.asked % 3 == 0:
            raise SearcherError(Failure.TIMEOUT, "too slow")
        kept = "[]"
        if sampling.temperature:
            kept = ("[]", "[1]", "[1, 2]", "nonsense")[self.sampled % 4]
            self.sampled += 1
        text = f"<important_info>{kept}</important_info>\n<search_complete>True</search_complete>"
        return Completion(text, model=self.model)

    async def info(self) -> ModelInfo:
        return ModelInfo(self.model, "scripted")


class Reader(Generator):
    """Answers right where the first passage is read."""

    async def stream(self, messages, sampling):  # type: ignore[no-untyped-def]
        yield Completion("an answer" if "an answer stands here" in messages[-1].content else "no", model=self.model)


async def measured(searcher: Searcher, out: Path, **changes: object) -> Outcome:
    plan = replace(Plan("set", QUESTIONS, 4, 1.0, 1, out), **changes)  # type: ignore[arg-type]
    steps: list[bool] = []
    outcome = await measure(plan, RUN, World(Retriever(), generator=Reader("")), searcher, steps.append)
    assert len(steps) == len(plan.questions) * (plan.samples + 1)
    return outcome


async def test_greedy_mean_and_best_of_the_samples(tmp_path: Path) -> None:
    outcome = await measured(Searcher(), tmp_path)
    found = head_room(list(outcome.samples.values()))
    accuracy, coverage = found.scores["accuracy"], found.scores["coverage"]
    assert (accuracy.greedy, accuracy.mean, accuracy.best, accuracy.mixed) == (0, 0.5, 1, 1)
    assert (coverage.greedy, coverage.mean, coverage.best, coverage.mixed) == (0, 0.375, 1, 1)
    assert (found.questions, found.well_formed, found.searches) == (4, 0.75, 1)
    assert found.choice_entropy == pytest.approx(0.5 * math.log(2) + 2 * 0.25 * math.log(4))
    assert outcome.facts["searcher"] == "searcher@1"
    assert not outcome.failures
    assert all(is_mixed(group) for group in outcome.samples.values())
    divided = by_group(QUESTIONS, outcome.samples)
    assert {value: each.questions for value, each in divided["hops"].items()} == {"2": 2, "3": 2}
    assert [row["questions"] for row in rows(found, divided)] == ["all", "hops 2", "hops 3"]


async def test_what_failed_is_left_out_and_played_by_the_next_call(tmp_path: Path) -> None:
    searcher = Searcher()
    searcher.broken = True
    outcome = await measured(searcher, tmp_path)
    assert sum(outcome.failures.values()) == 6
    assert list(outcome.failures) == ["searcher: too slow"]
    assert len(outcome.samples) < 4
    searcher.broken, before = False, searcher.asked
    outcome = await measured(searcher, tmp_path)
    assert searcher.asked == before + 6
    assert len(outcome.samples) == 4
    assert len((tmp_path / "samples.jsonl").read_bytes().splitlines()) == 20
    fewer = await measured(searcher, tmp_path, samples=2, questions=QUESTIONS[:2])
    assert searcher.asked == before + 6
    assert [len(group) for group in fewer.samples.values()] == [3, 3]


async def test_samples_of_another_searcher_are_not_mixed(tmp_path: Path) -> None:
    await measured(Searcher(), tmp_path)
    other = Searcher()
    other.model = "searcher@2"
    with pytest.raises(EvaluateProblem, match=r"samples of another searcher: .*; choose another --out"):
        await measured(other, tmp_path)
    with pytest.raises(EvaluateProblem, match="another temperature"):
        await measured(Searcher(), tmp_path, temperature=0.7)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(EvaluateProblem, match=r"run\.json is damaged"):
        await measured(Searcher(), tmp_path)


def group(*worth: float, choices: str = "aaaa") -> list[Sample]:
    parts = [{"reward": value, "accuracy": value, "malformed": 0.0, "searches": 1.0} for value in worth]
    return [Sample("q", n, choice, each) for n, (choice, each) in enumerate(zip(choices, parts, strict=True))]


def test_a_start_without_head_room_breaks_the_runs_stop_rules() -> None:
    rules = StopConfig(mixed_groups=0.2, choice_entropy=0.1, coverage_rise=0.03)
    sure = head_room([group(0, 1, 1, 1)])
    assert sure.lacking(rules).startswith("stop.mixed_groups")
    assert "coverage" not in sure.scores
    same = head_room([group(0, 1, 0, 1)])
    assert same.lacking(rules).startswith("stop.choice_entropy")
    assert head_room([group(0, 1, 0, 1, choices="abac")]).lacking(rules) == ""
    assert sure.lacking(StopConfig()) == ""


def test_figures_can_be_written() -> None:
    from dataclasses import asdict

    assert json.loads(json.dumps(asdict(head_room([group(0, 1, 0, 1)]))))["scores"]["reward"]["mixed"] == 1
