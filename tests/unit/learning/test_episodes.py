"""Episodes with their rewards: what they are worth, what fails, and that they wait together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import grpc
import pytest

from common.backends import GrpcGenerator
from common.run_config import RewardConfig
from contracts.v1 import generator_pb2 as pb
from contracts.v1.generator_pb2_grpc import GeneratorServicer, add_GeneratorServicer_to_server
from learning.episodes import Example, Stage, example_of, row_of
from search_agent.agents import AGENTS
from search_agent.errors import BoundaryError, Failure, GeneratorError, JudgeError
from search_agent.testing import ScriptedPolicy
from search_agent.types import Completion, Message, Passage, Question, Sampling
from search_agent.world import Judge, Whole, World
from tests.fakes import Generator, Retriever

KEEPS = "<important_info>[1]</important_info>\n<search_complete>True</search_complete>"
QUESTION = Question("q1", "What stands here?", ("an answer",), (("w1",),), {}, "", "Wall")
FREE = AGENTS["s3"].with_params({"constrained": False})


def stage(answer: str, judge: Judge | None = None, **terms: Any) -> Stage:
    reward = RewardConfig.model_validate(terms)
    return Stage(FREE, World(Retriever(), generator=Generator(answer), judge=judge), reward)


def example(rag: float, generator: str = "echo@1") -> Example:
    return Example(QUESTION, rag, generator)


@pytest.mark.parametrize(
    ("kind", "answer", "rag", "worth"),
    [
        ("gain", "an answer", 0.0, 1.0),
        ("gain", "an answer", 1.0, 0.0),
        ("gain", "no idea", 1.0, -1.0),
        ("gain_plus_accuracy", "an answer", 0.0, 2.0),
        ("gain_plus_accuracy", "no idea", 1.0, -1.0),
    ],
)
async def test_an_episode_is_worth_what_it_gains(kind: str, answer: str, rag: float, worth: float) -> None:
    played = await stage(answer, kind=kind).play(ScriptedPolicy([KEEPS]), example(rag), 1)
    assert played.reward == played.parts["reward"] == worth
    assert played.parts["rag_accuracy"] == rag
    assert played.parts["searches"] == played.parts["selected"] == 1
    assert all(type(value) is float for value in played.parts.values())


async def test_a_searcher_that_answers_itself_is_worth_its_exact_match() -> None:
    agent = AGENTS["search_r1"].with_params({"constrained": False, "answerer": "searcher"})
    own = Stage(agent, World(Retriever(), generator=Generator("unused")), RewardConfig(kind="exact_match"))
    for said, worth in (("An answer!", 1.0), ("an answer, I think", 0.0)):
        played = await own.play(ScriptedPolicy([f"<answer>{said}</answer>"]), Example(QUESTION), 1)
        assert played.reward == worth


async def test_the_judge_is_asked_only_where_no_gold_answer_stands() -> None:
    asked: list[str] = []

    async def judge(question: Question, answer: str) -> bool:
        asked.append(answer)
        return True

    assert (await stage("an answer", judge).play(ScriptedPolicy([KEEPS]), example(0), 1)).reward == 1.0
    assert asked == []
    assert (await stage("it does", judge).play(ScriptedPolicy([KEEPS]), example(0), 1)).reward == 1.0
    assert asked == ["it does"]


async def test_penalties_are_taken_off_and_shown() -> None:
    text = "<important_info>[]</important_info><search_complete>True</search_complete>"
    idle = await stage("no idea", idle_penalty=0.25).play(ScriptedPolicy([text]), example(0), 1)
    assert (idle.reward, idle.parts["penalty"], idle.parts["gain"]) == (-0.25, 0.25, 0.0)


async def test_the_gold_passages_kept_and_seen_are_counted_where_they_are_known() -> None:
    async def parts(*needed: tuple[str, ...]) -> dict[str, float]:
        example = Example(replace(QUESTION, gold_passages=needed), 0.0, "echo@1")
        return (await stage("an answer").play(ScriptedPolicy([KEEPS]), example, 1)).parts

    both = await parts(("w1",), ("w2",))  # of which the episode sees both, and keeps the first
    assert (both["coverage"], both["all_kept"], both["all_seen"]) == (0.5, 0, 1)
    alike = await parts(("elsewhere", "w1"))
    assert (alike["coverage"], alike["all_kept"]) == (1, 1)
    assert "coverage" not in await parts()


async def test_coverage_and_costs_count_with_the_weight_of_their_step() -> None:
    half = Example(replace(QUESTION, gold_passages=(("w1",), ("w2",))), 0.0, "echo@1")
    both = stage("no idea", coverage_weight={1: 0.5, 4: 0.0}, kept_penalty={1: 0.0, 3: 0.125})
    worth = [(await both.play(ScriptedPolicy([KEEPS]), half, step)).reward for step in (1, 3, 4)]
    assert worth == [0.25, 0.125, -0.125]
    forever = stage("an answer", coverage_weight=0.5)
    assert (await forever.play(ScriptedPolicy([KEEPS]), half, 10**6)).reward == 1.25
    unknown = Example(replace(QUESTION, gold_passages=()), 0.0, "echo@1")
    assert (await forever.play(ScriptedPolicy([KEEPS]), unknown, 1)).reward == 1.0


async def test_scores_of_another_generator_are_refused() -> None:
    with pytest.raises(GeneratorError, match="echo@1 answers, but naive RAG was scored with echo@0"):
        await stage("an answer").play(ScriptedPolicy([KEEPS]), example(0.0, "echo@0"), 1)


class Broken:
    """Each service in turn."""

    def __init__(self, error: BoundaryError) -> None:
        self.error = error

    async def search(self, *_: object) -> Any:
        raise self.error

    async def complete(self, *_: object) -> Completion:
        raise self.error

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        raise self.error
        yield

    async def __call__(self, question: Question, answer: str) -> bool:
        raise self.error


@pytest.mark.parametrize("part", ["retriever", "policy", "generator", "judge"])
async def test_a_failure_has_no_reward(part: str) -> None:
    broken = Broken(JudgeError(Failure.TIMEOUT, "late"))
    parts: dict[str, Any] = {
        "retriever": Retriever(), "policy": ScriptedPolicy([KEEPS]), "generator": Generator("no"), "judge": None,
        part: broken,
    }  # fmt: skip
    failing = Stage(FREE, World(parts["retriever"], generator=parts["generator"], judge=parts["judge"]), RewardConfig())
    with pytest.raises(BoundaryError):
        await failing.play(parts["policy"], example(0.0), 1)


def test_an_example_comes_back_from_its_row() -> None:
    needed = (("p1", "p3"), ("p2",))
    question = Question("7", "?", ("A: x",), needed, {"A": "x", "B": "ß"}, "A", "Title", {"hops": "2"})
    for each in (Example(question, 0.0, "g@1"), Example(QUESTION)):
        assert example_of(row_of(each)) == each
    assert asdict(example_of(row_of(Example(question))).question) == asdict(question)
    gold = Example(question, 1.0, "frozen@1", (Passage("p1", "T", "text", 0.5, {"year": 1990}),))
    assert example_of(json.loads(json.dumps(row_of(gold)))) == gold


def test_a_row_of_a_run_that_began_before_there_were_teachers_is_read() -> None:
    before = {"question": asdict(Question("q", "Who?", ("echo",))), "rag": 1.0, "generator": "frozen@1"}
    assert example_of(before) == Example(Question("q", "Who?", ("echo",)), 1.0, "frozen@1")


class Crowd(GeneratorServicer):
    """Answers once as many requests are under way as it waits for."""

    def __init__(self, size: int) -> None:
        self._barrier = asyncio.Barrier(size)

    async def Generate(self, request: Any, context: Any) -> Any:
        await self._barrier.wait()
        return pb.GenerateResponse(text="an answer", finish_reason=pb.STOP, model="crowd@1")


async def test_the_samples_of_a_batch_wait_together() -> None:
    server = grpc.aio.server()
    add_GeneratorServicer_to_server(Crowd(120), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    generator = GrpcGenerator(f"127.0.0.1:{port}", timeout_s=60)
    stage = Stage(FREE, World(Retriever(), generator=Whole(generator)), RewardConfig())
    samples = (stage.play(ScriptedPolicy([KEEPS]), example(0.0, "crowd@1"), 1) for _ in range(120))
    played = await asyncio.gather(*samples)
    await generator.close()
    await server.stop(0)
    assert [each.reward for each in played] == [1.0] * 120
