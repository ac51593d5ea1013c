"""When a checkpoint is better than what serves."""

import json
from collections import Counter
from pathlib import Path

import pytest

from search_agent.errors import Failure, SearcherError
from search_agent.evaluate import Question
from services.trainer.config import GateConfig
from services.trainer.gate import Answer, compare, decide

TERMS = GateConfig(questions="set", margin=2.0)
QUESTIONS = [Question(f"q{n}", f"question {n}", ("gold",)) for n in range(200)]


def pairs(better: int, worse: int, of: int = 200) -> list[tuple[float, float]]:
    return [(1.0, 0.0)] * better + [(0.0, 1.0)] * worse + [(1.0, 1.0)] * (of - better - worse)


@pytest.mark.parametrize(
    ("found", "passed", "reason"),
    [
        (pairs(30, 5), True, r"^\+12\.5 points \[\+.*\]$"),
        (pairs(5, 30), False, r"^-12\.5 points .* less than the margin of 2$"),
        (pairs(3, 0), False, r"^\+1\.5 points .* less than the margin of 2$"),
        (pairs(30, 22), False, r"the interval does not exclude zero$"),
        (pairs(0, 0), False, "less than the margin"),
    ],
)
def test_the_mean_and_the_interval_must_both_be_better(
    found: list[tuple[float, float]], passed: bool, reason: str
) -> None:
    verdict = decide(found, 0, TERMS, 0.1)
    assert verdict.passed is passed
    assert pytest.approx(verdict.candidate - verdict.current) == verdict.difference.mean
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(verdict.reason)


def test_too_many_failures_decide_nothing() -> None:
    verdict = decide(pairs(50, 0, of=170), 30, TERMS, 0.1)
    assert not verdict.passed
    assert verdict.reason == "inconclusive: 30 of 200 questions failed"
    assert not decide([], 5, TERMS, 0.1).passed


class Models:
    """Two models: the candidate is right on every other question, the current one on every tenth."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self.broken: set[str] = set()

    def named(self, name: str, every: int) -> Answer:
        async def answer(question: Question) -> float:
            self.asked[name, question.id] += 1
            if question.id in self.broken:
                raise SearcherError(Failure.TIMEOUT, "too slow")
            return float(int(question.id[1:]) % every == 0)

        return answer

    @property
    def both(self) -> dict[str, Answer]:
        return {"new@1": self.named("new@1", 2), "old@1": self.named("old@1", 10)}


async def test_both_answer_every_question_and_failures_are_in_no_figure(tmp_path: Path) -> None:
    models = Models()
    models.broken = {"q0", "q1"}
    verdict = await compare(QUESTIONS, models.both, tmp_path / "gate.jsonl", TERMS, 0.1)
    assert verdict.passed
    assert (verdict.questions, verdict.failed) == (198, 2)
    assert verdict.candidate == pytest.approx(99 / 198)
    assert verdict.current == pytest.approx(19 / 198)


async def test_a_comparison_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "gate.jsonl"
    whole = await compare(QUESTIONS, Models().both, journal, TERMS, 0.1)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:150]) + lines[150][:20])
    models = Models()
    assert await compare(QUESTIONS, models.both, journal, TERMS, 0.1) == whole
    assert sum(models.asked.values()) == 250
    assert len({(row["model"], row["id"]) for row in map(json.loads, journal.read_text().splitlines())}) == 400
