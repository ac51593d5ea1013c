"""bench.agents and bench.ceiling: GPU samples from a program in nvidia-smi's place, and what a question records."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from bench.agents import Call, Played, Recorded, gpu_use, main, summary
from bench.ceiling import in_turns
from search_agent.agents import AGENTS
from search_agent.grading import answers
from search_agent.testing import EchoGenerator, ListRetriever, ScriptedPolicy
from search_agent.types import Passage, Question, Sampling
from search_agent.world import World


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


async def test_a_question_is_recorded_with_its_calls_and_costs() -> None:
    done = "<important_info>[1]</important_info>\n<search_complete>True</search_complete>"
    question = Question("q", "text zero", golds=("word zero",))
    models = Recorded(ScriptedPolicy(["what?", done]), EchoGenerator("word zero"))
    agent = AGENTS["s3"].with_params({"free_first": True})
    retriever = ListRetriever([Passage("p", "Title", "text zero")])
    found = await agent.play(question, World(retriever, models, models), Sampling(max_tokens=8))
    assert [(call.model, call.read, call.wrote) for call in models.calls] == [
        ("searcher", 10, 5),
        ("searcher", 10, 5),
        ("generator", 20, 4),
    ]
    assert models.calls[0].messages == models.calls[1].messages == [("user", found.spans[0].text)]
    played = Played(1.0, 3.0, answers.matches(question, found.answer or ""), found, models.calls)
    told = summary([played, Played(2.0, 5.0, 0.0, found, models.calls)], [10, 30])
    assert (told["questions_per_s"], told["gpu_percent"], told["right"]) == (0.5, 20, 0.5)
    assert (told["calls"], told["rewritten_turns"], told["tokens_read"]) == (3, 0.5, 40)


def test_questions_that_are_not_there_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = [f"--{each}=127.0.0.1:1" for each in ("retriever", "searcher", "generator")]
    asked = ["--method=direct", "--skip=100000", "--limit=2", "--at-once=1"]
    monkeypatch.setattr(sys, "argv", ["bench.agents", *services, *asked, f"--out={tmp_path / 'out'}"])
    with pytest.raises(SystemExit, match="there are no such questions"):
        main()


def test_calls_are_replayed_turn_by_turn_for_as_many_questions_as_were_played_at_once() -> None:
    def question(name: str, calls: int) -> list[Call]:
        return [Call(f"{name}{number}", [], 1, 1) for number in range(calls)]

    played = [question("a", 1), question("b", 3), question("c", 2)]
    assert [call.model for call in in_turns(played, 2)] == ["a0", "b0", "b1", "b2", "c0", "c1"]


@pytest.mark.parametrize("at_once", [3, 100])
def test_all_calls_are_replayed(at_once: int) -> None:
    played = [[Call(f"{number}", [], 1, 1)] * number for number in range(8)]
    assert len(list(in_turns(played, at_once))) == 28
