"""Naive RAG answers some questions too, in the background, and never at the cost of those who ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from prometheus_client import REGISTRY

from common.keys import Limits, Scope
from search_agent.agents import AGENTS
from search_agent.errors import Failure, GeneratorError, JudgeError
from search_agent.grading.judge import Ruling
from search_agent.types import Completion, Message, Passage, Question, Sampling
from services.gateway import caller
from services.gateway.asker import Ask, Asker
from services.gateway.caller import Caller
from services.gateway.capacity import Capacity
from services.gateway.counters import MemoryCounters
from services.gateway.guarded import MeteredGenerator, MeteredSearcher
from services.gateway.limits import Meter
from services.gateway.methods import Methods
from services.gateway.player import Backends, Player
from services.gateway.shadow import Shadow
from tests.fakes import Generator, Retriever, Searcher
from tests.unit.gateway.rest import MOVES

DAY_S = 24 * 3600
SAID = {"both": {"ours": True, "naive": True}, "only_method": {"ours": True}, "only_naive_rag": {"naive": True}}


class Answers(Generator):
    """Answers "ours" to the first question and "naive" to the next, where it waits for `go_on`."""

    def __init__(self) -> None:
        super().__init__("ours")
        self.waits, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    def say(self, answer: str) -> None:
        self._answer = answer

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        if self._answer == "naive":
            self.waits.set()
            await self.go_on.wait()
        async for piece in super().stream(messages, sampling):
            yield piece
        self.say("naive")


class Scene:
    """A gateway whose every answered question is compared, and the judge that rules on them."""

    def __init__(self, tokens_per_day: int = 1000, share: float = 1, most: int = 8, excluded: tuple[str, ...] = ()):
        self.right: dict[str, bool] = {}
        self.asked: list[tuple[str, list[str], str]] = []
        self.fails, self.mumbled = False, ""
        self.counters = MemoryCounters()
        meter = Meter(self.counters, Limits(tokens_per_day=10_000))
        self.generator = Answers()
        self.retriever = Retriever()
        backends = Backends(
            self.retriever, MeteredSearcher(Searcher(MOVES * 2), meter), MeteredGenerator(self.generator, meter), None
        )
        player = Player(backends, Sampling(max_tokens=8))
        self.capacity = Capacity(most, first_s=0.1)
        self.shadow = Shadow(
            player, self.capacity, meter, self.judge, share, tokens_per_day, excluded=excluded, draw=lambda: 0.5
        )
        self.asker = Asker(player, Methods(backends), self.capacity, None, meter, self.shadow.offer)
        self._before = self._counts()

    async def judge(self, question: Question, passages: Sequence[Passage], answer: str) -> Ruling:
        self.asked.append((question.text, [passage.id for passage in passages], answer))
        if self.fails:
            raise JudgeError(Failure.UNAVAILABLE, "it is away")
        return Ruling(self.mumbled or ("Yes" if self.right.get(answer) else "No"), 7)

    async def ask(self, method: str = "s3") -> None:
        await self.asker.ask(Ask("Who stands here?", method))

    async def settled(self) -> None:
        """Waits until nothing is compared any more."""
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def used(self, who: str) -> int:
        return (await self.counters.spend(f"{who}:tokens", 0, 0, DAY_S)).used

    def _counts(self) -> dict[tuple[str, str], float]:
        return {
            (sample.labels["method"], sample.labels["outcome"]): sample.value
            for family in REGISTRY.collect()
            if family.name == "search_agent_shadow_questions"
            for sample in family.samples
            if sample.name.endswith("_total")
        }

    def outcomes(self) -> dict[tuple[str, str], float]:
        """Returns what was counted since the scene began."""
        counts = {key: value - self._before.get(key, 0) for key, value in self._counts().items()}
        return {key: value for key, value in counts.items() if value}


@pytest.mark.parametrize("outcome", ["both", "only_method", "only_naive_rag", "neither"])
async def test_the_judge_tells_whose_answer_is_right(outcome: str) -> None:
    scene = Scene()
    scene.right = SAID.get(outcome, {})
    await scene.ask()
    await scene.settled()
    assert scene.outcomes() == {("s3", outcome): 1}


async def test_both_answers_are_held_to_all_that_was_found_in_an_order_that_tells_nothing() -> None:
    scene = Scene()
    await scene.ask()
    await scene.settled()
    assert scene.asked == [("Who stands here?", ["w1", "w2", "w3"], answer) for answer in ("ours", "naive")]


async def test_naive_rag_reads_as_many_passages() -> None:
    scene = Scene()
    finished = await scene.asker.ask(Ask("Who stands here?", "s3"))
    await scene.settled()
    assert len(finished.trajectory.documents) == 2
    assert [prompt.count("Doc ") for prompt in scene.generator.prompts] == [2, 2]


async def test_the_same_answer_is_judged_once() -> None:
    scene = Scene()
    scene.right = {"naive": True}
    scene.generator.say("naive")
    await scene.ask()
    await scene.settled()
    assert len(scene.asked) == 1
    assert scene.outcomes() == {("s3", "both"): 1}


@pytest.mark.parametrize("method", ["naive_rag", "direct"])
async def test_what_cannot_gain_is_not_compared(method: str) -> None:
    scene = Scene()
    await scene.ask(method)
    await scene.settled()
    assert scene.outcomes() == {}


async def test_a_share_of_the_questions_is_compared() -> None:
    scene = Scene(share=0.5)  # draws are from 0 up to 1, so that 0.5 is the first beyond a half
    await scene.ask()
    await scene.settled()
    assert scene.outcomes() == {}


@pytest.mark.parametrize(("id", "is_private"), [("secret", False), ("open", True)])
async def test_a_private_question_is_not_compared(id: str, is_private: bool) -> None:
    scene = Scene(excluded=("secret",))
    caller.set_current(Caller(id, frozenset(Scope), is_private=is_private))
    await scene.ask()
    await scene.settled()
    assert scene.asked == []
    assert scene.outcomes() == {}


async def test_the_caller_pays_for_their_own_answer_only() -> None:
    scene, plain = Scene(), Scene(share=0)
    for each in (scene, plain):
        await each.ask()
        await each.settled()
    assert await scene.used(caller.ANYBODY.id) == await plain.used(caller.ANYBODY.id) > 0
    assert await scene.used("shadow") > 2 * 7  # the judge's, and naive RAG's


async def test_a_day_has_so_many_tokens_and_no_more() -> None:
    scene = Scene(tokens_per_day=1)
    for _ in range(2):
        scene.generator.say("ours")
        await scene.ask()
        await scene.settled()
    assert scene.outcomes() == {("s3", "neither"): 1, ("s3", "capped"): 1}


async def test_a_failure_is_nobody_elses() -> None:
    scene = Scene()
    scene.fails = True
    labels = {"boundary": "generator", "failure": "broken"}
    before = REGISTRY.get_sample_value("search_agent_failures_total", labels)
    await scene.ask()
    await scene.settled()
    scene.fails = False
    scene.generator.say("ours")
    await scene.ask()
    scene.generator.error = GeneratorError(Failure.BROKEN, "broken")
    await scene.settled()
    assert scene.outcomes() == {("s3", "failed"): 2}
    assert REGISTRY.get_sample_value("search_agent_failures_total", labels) == before


async def test_a_judge_that_says_neither_yes_nor_no_has_spent_its_tokens() -> None:
    spent = []
    for fails, mumbled in ((True, ""), (False, "Perhaps")):
        scene = Scene()
        scene.fails, scene.mumbled = fails, mumbled
        await scene.ask()
        await scene.settled()
        assert scene.outcomes() == {("s3", "failed"): 1}
        spent.append(await scene.used("shadow"))
    assert spent[1] - spent[0] == 7


async def test_the_shadow_is_not_among_the_questions_that_were_asked() -> None:
    labels = {"method": "naive_rag", "stop_reason": "complete"}
    before = REGISTRY.get_sample_value("search_agent_questions_total", labels)
    scene = Scene()
    await scene.ask()
    await scene.settled()
    assert REGISTRY.get_sample_value("search_agent_questions_total", labels) == before


async def test_a_full_gateway_drops_it() -> None:
    scene = Scene(most=2)
    with scene.capacity.work("s3", "another"):
        await scene.ask()
        await scene.settled()
    assert scene.outcomes() == {("s3", "dropped"): 1}


async def test_it_gives_its_place_to_a_question() -> None:
    scene = Scene(most=2)
    scene.generator.go_on.clear()
    await scene.ask()
    await scene.generator.waits.wait()
    with scene.capacity.work("s3", "one"), scene.capacity.work("s3", "two"):
        await scene.settled()
    assert scene.outcomes() == {("s3", "dropped"): 1}


async def test_a_gateway_that_stops_drops_it() -> None:
    scene = Scene()
    scene.generator.go_on.clear()
    await scene.ask()
    await scene.shadow.close()
    assert scene.outcomes() == {("s3", "dropped"): 1}


def test_prometheus_knows_every_outcome_before_it_happens() -> None:
    counts = Scene()._counts()
    compared = AGENTS.keys() - {"direct", "cot", "naive_rag"}
    assert {method for method, _ in counts} == compared
    assert len(counts) == len(compared) * 7
