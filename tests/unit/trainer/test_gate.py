"""The gate's decision, and its questions asked of both sides."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from common.run_config import GateConfig
from common.training import GateOutcome, GateProgress
from search_agent.agents import AGENTS
from search_agent.errors import Failure, GeneratorError, TrainerError
from search_agent.types import Question
from search_agent.world import World
from services.trainer.gate import Answered, Contender, Contest, Side, decide, hold
from tests.fakes import Retriever
from tests.trainer_fakes import FakeSearcher, Reader

TERMS = GateConfig(questions="held-out", margin=1.0, max_failed_share=0.1)


def answers(scores: Sequence[float]) -> list[Answered]:
    return [Answered(f"q{number:03}", score, "", 1) for number, score in enumerate(scores)]


def asked_of(count: int, hops: Sequence[int] = (2,)) -> list[Question]:
    return [
        Question(f"q{number:03}", "?", ("x",), groups={"hops": str(hops[number % len(hops)])})
        for number in range(count)
    ]


def verdict_of(candidate: Sequence[float], current: Sequence[float], asked: int, terms: GateConfig = TERMS):
    return decide(answers(candidate), answers(current), asked_of(asked), terms)


def test_no_group_may_fall() -> None:
    def verdict(lost: int, **terms: float):
        """The candidate wins 80 of 100 with 2 hops, and loses the first `lost` of 100 with 3."""
        pairs = [pair for n in range(100) for pair in ((n < 80, False), (n >= lost, True))]
        candidate, current = zip(*pairs, strict=True)
        return decide(answers(candidate), answers(current), asked_of(200, (2, 3)), TERMS.model_copy(update=terms))

    assert verdict(20).outcome is GateOutcome.PASSED  # nothing asks for groups
    assert verdict(20, group_fall=25.0).outcome is GateOutcome.PASSED  # not by as much
    assert verdict(2, group_fall=2.0).outcome is GateOutcome.PASSED  # 2 of 100 may be chance
    fell = verdict(20, group_fall=20.0)
    assert fell.outcome is GateOutcome.NOT_BETTER
    assert "hops 3: -20.0 points" in fell.reason
    assert "hops 2" not in fell.reason
    assert fell.difference == pytest.approx(0.3)


def test_better_by_the_margin_with_an_interval_above_zero_passes() -> None:
    verdict = verdict_of([1] * 60 + [0] * 40, [1] * 40 + [0] * 60, 100)
    assert verdict.outcome is GateOutcome.PASSED
    assert (verdict.candidate, verdict.current) == (0.6, 0.4)
    assert (verdict.compared, verdict.wins, verdict.losses) == (100, 20, 0)
    assert verdict.difference == pytest.approx(0.2)
    assert 0 < verdict.low < 0.2 < verdict.high


@pytest.mark.parametrize(
    ("candidate", "current", "terms", "reason"),
    [
        ([1, 0] * 50, [1, 0] * 50, TERMS, "gate.margin is 1"),
        ([0] * 100, [1] * 100, TERMS, "gate.margin is 1"),
        ([1] * 60 + [0] * 40, [1] * 40 + [0] * 60, TERMS.model_copy(update={"margin": 25.0}), "gate.margin is 25"),
        ([1] * 2 + [0] * 98, [0] * 100, TERMS, "the interval includes zero"),
        ([0] * 100, [0] * 100, TERMS.model_copy(update={"margin": 0.0}), "the interval includes zero"),
    ],
)
def test_what_does_not_pass(
    candidate: Sequence[float], current: Sequence[float], terms: GateConfig, reason: str
) -> None:
    verdict = verdict_of(candidate, current, 100, terms)
    assert verdict.outcome is GateOutcome.NOT_BETTER
    assert reason in verdict.reason


def test_the_resamples_and_the_seed_of_the_configuration_count() -> None:
    def interval(**terms: int) -> tuple[float, float]:
        found = verdict_of([1] * 30 + [0] * 20, [0, 1] * 25, 50, TERMS.model_copy(update=terms))
        return found.low, found.high

    assert interval(resamples=100) == interval(resamples=100)
    assert len({interval(resamples=100), interval(resamples=5000), interval(resamples=100, seed=5)}) > 1


def test_failures_are_counted_and_never_scored() -> None:
    # 10 of 100 have no answer of the current searcher: as wrong answers they would raise the difference
    verdict = verdict_of([1] * 60 + [0] * 40, [0] * 20 + [1] * 70, 100)
    assert verdict.failed == 10
    assert verdict.compared == 90
    assert verdict.current == pytest.approx(70 / 90)
    assert verdict.candidate == pytest.approx(60 / 90)
    assert verdict.outcome is GateOutcome.NOT_BETTER


def test_too_many_failures_tell_nothing() -> None:
    verdict = verdict_of([1] * 89, [0] * 89, 100)
    assert verdict.outcome is GateOutcome.INCONCLUSIVE
    assert "11 of 100" in verdict.reason
    nothing = verdict_of([], [], 100)
    assert (nothing.outcome, nothing.compared, nothing.failed) == (GateOutcome.INCONCLUSIVE, 0, 100)


AGENT = AGENTS["s3"].with_params({"max_turns": 1})
QUESTIONS = [Question(f"q{number}", f"question {number}?", ("answer",)) for number in range(6)]


def contest(candidate: FakeSearcher, current: FakeSearcher, reader: Reader | None = None) -> Contest:
    reader = reader or Reader()
    return Contest(
        questions=QUESTIONS,
        sides={
            Side.CANDIDATE: Contender(AGENT, candidate, candidate.model),
            Side.CURRENT: Contender(AGENT, current, current.model),
        },
        world=World(Retriever(), generator=reader),
        generator_model=reader.model,
        answer_tokens=8,
        facts={},
    )


class Seen:
    """The progress that was told."""

    def __init__(self) -> None:
        self.told: list[GateProgress] = []

    def __call__(self, progress: GateProgress) -> None:
        self.told.append(progress)


async def test_both_sides_answer_every_question_through_the_agent(tmp_path: Path) -> None:
    good, bad, seen = FakeSearcher("/good.gguf"), FakeSearcher("/bad.gguf"), Seen()
    verdict = await hold(contest(good, bad), TERMS, tmp_path, 2, 30, seen)
    assert verdict.outcome is GateOutcome.PASSED
    assert (verdict.candidate, verdict.current) == (1.0, 0.0)
    assert (good.asked, bad.asked) == (6, 6)
    assert seen.told[0] == GateProgress(0, 0, 12)
    assert seen.told[-1] == GateProgress(12, 0, 12)
    reverse = await hold(contest(bad, good), TERMS, tmp_path, 2, 30, seen)
    assert (good.asked, bad.asked) == (6, 6)
    assert reverse.outcome is GateOutcome.NOT_BETTER


async def test_a_gate_goes_on_where_it_stopped_and_asks_again_what_failed(tmp_path: Path) -> None:
    good, bad = FakeSearcher("/good.gguf", failing=["question 3", "question 4"]), FakeSearcher("/bad.gguf")
    seen = Seen()
    verdict = await hold(contest(good, bad), TERMS, tmp_path, 1, 30, seen)
    assert verdict.outcome is GateOutcome.INCONCLUSIVE
    assert seen.told[-1] == GateProgress(10, 2, 12)
    good.failing, good.asked, bad.asked = (), 0, 0
    verdict = await hold(contest(good, bad), TERMS, tmp_path, 1, 30, seen)
    assert verdict.outcome is GateOutcome.PASSED
    assert (good.asked, bad.asked) == (2, 0)


async def test_answers_of_another_model_are_not_taken_up(tmp_path: Path) -> None:
    good, bad = FakeSearcher("/good.gguf"), FakeSearcher("/bad.gguf")
    await hold(contest(good, bad), TERMS, tmp_path, 2, 30, Seen())
    worse = FakeSearcher("/worse.gguf")
    assert (await hold(contest(worse, bad), TERMS, tmp_path, 2, 30, Seen())).candidate == 0.0
    other_reader = Reader()
    other_reader.model = "echo@2"
    await hold(contest(good, bad, other_reader), TERMS, tmp_path, 2, 30, Seen())
    assert good.asked == 12
    assert bad.asked == 12  # again for the other generator, and not for the other candidate
    changed = [replace(question, golds=("nothing",)) for question in QUESTIONS]
    verdict = await hold(replace(contest(good, bad), questions=changed), TERMS, tmp_path, 2, 30, Seen())
    assert verdict.candidate == 0.0


async def test_a_gate_ends_when_its_time_is_up(tmp_path: Path) -> None:
    class Slow(FakeSearcher):
        async def complete(self, spans, sampling):  # type: ignore[no-untyped-def]
            await asyncio.sleep(60)

    verdict = await hold(contest(Slow("/good.gguf"), FakeSearcher("/bad.gguf")), TERMS, tmp_path, 2, 0.2, Seen())
    assert verdict.outcome is GateOutcome.INCONCLUSIVE
    assert verdict.failed == 6


async def test_a_model_that_is_swapped_meanwhile_ends_the_gate(tmp_path: Path) -> None:
    good, bad = FakeSearcher("/good.gguf"), FakeSearcher("/bad.gguf")
    held = contest(good, bad)
    await bad.load("/other.gguf", "")
    with pytest.raises(TrainerError, match="other was loaded while the gate was held"):
        await hold(held, TERMS, tmp_path, 2, 30, Seen())


async def test_a_generator_that_is_down_makes_it_inconclusive(tmp_path: Path) -> None:
    reader = Reader()
    reader.error = GeneratorError(Failure.UNAVAILABLE, "down")
    held = contest(FakeSearcher("/good.gguf"), FakeSearcher("/bad.gguf"), reader)
    verdict = await hold(held, TERMS, tmp_path, 2, 30, Seen())
    assert (verdict.outcome, verdict.failed) == (GateOutcome.INCONCLUSIVE, 6)
