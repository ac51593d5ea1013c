"""Prompts that are longer than a model's context: passages are cut, the same way for every method, and it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_agent import tags
from search_agent.agents import AGENTS
from search_agent.errors import BoundaryError, Failure, GeneratorError, SearcherError
from search_agent.testing import EchoGenerator, ListRetriever, ScriptedPolicy
from search_agent.types import Completion, Message, Passage, Question, Sampling, Span, StopReason, Trajectory
from search_agent.world import World

LONG = [Passage(f"p{n}", f"Title {n}", f"text {n} " + "word " * 1600) for n in range(4)]
ANSWER = Sampling(max_tokens=8)
WIDE: dict[str, object] = {"top_k": 4, "observation_chars": 20_000, "context_tokens": 100_000}
DONE = "<important_info>[1, 2]</important_info>\n<search_complete>True</search_complete>"
NEXT = '<search_complete>False</search_complete>\n<query>{"query": "text 2"}</query>'
TEXTS = {
    "s3": [DONE],
    "naive_rag": [],
    "ircot": ["<sentence>x</sentence>\n<enough>True</enough>"],
    "search_r1": ["<think>a</think>\n<search>text</search>", "<think>a</think>\n<answer>b</answer>"],
    "search_o1": ["<|begin_search_query|>text<|end_search_query|>", "a digest", "so it is"],
    "deep_retrieval": ['<think>a</think>\n<answer>{"query": "text"}</answer>'],
}


def refuse_beyond(room: int, text: str, boundary: type[BoundaryError], tells: bool) -> None:
    if len(text) > room:
        excess = len(text) / room if tells else 0.0
        raise boundary(Failure.TOO_LONG, f"{len(text)} do not fit", "messages", excess)


class SmallGenerator(EchoGenerator):
    """Takes prompts of so many characters."""

    def __init__(self, room: int, tells: bool = True) -> None:
        super().__init__("an answer")
        self.room, self.tells, self.refusals = room, tells, 0

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Completion]:
        self.refusals += len(messages[-1].content) > self.room
        refuse_beyond(self.room, messages[-1].content, GeneratorError, self.tells)
        async for piece in super().stream(messages, sampling):
            yield piece


class SmallPolicy(ScriptedPolicy):
    """Takes dialogues of so many characters."""

    def __init__(self, room: int, texts: Sequence[str], tells: bool = True) -> None:
        super().__init__(texts)
        self.room, self.tells = room, tells

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        refuse_beyond(self.room, "".join(span.text for span in spans), SearcherError, self.tells)
        return await super().complete(spans, sampling)


async def play(method: str, policy: ScriptedPolicy, generator: EchoGenerator, **params: object) -> Trajectory:
    agent = AGENTS[method].with_params(params)
    return await agent.play(Question("q", "text 1"), World(ListRetriever(LONG), policy, generator), ANSWER)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("method", [name for name in TEXTS if name != "search_o1"])  # whose documents are short
async def test_the_generator_reads_as_much_of_the_passages_as_fits(method: str, tells: bool) -> None:
    generator = SmallGenerator(5000, tells)
    trajectory = await play(method, ScriptedPolicy(TEXTS[method]), generator, top_k=4)
    assert trajectory.truncated
    assert trajectory.answer == "an answer"
    assert [passage.text for passage in trajectory.passages] == [
        next(each.text for each in LONG if each.id == passage.id) for passage in trajectory.passages
    ]
    (prompt,) = generator.prompts
    assert len(prompt) > (4500 if tells else 2500)
    assert prompt.count("Doc ") == len(trajectory.documents)
    assert generator.refusals == (1 if tells else generator.refusals)


async def test_what_fits_is_not_cut() -> None:
    generator = SmallGenerator(50_000)
    trajectory = await play("naive_rag", ScriptedPolicy([]), generator)
    assert not trajectory.truncated
    assert all(passage.text in generator.prompts[0] for passage in trajectory.passages)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("method", [name for name in TEXTS if name not in ("naive_rag", "deep_retrieval")])
async def test_the_searcher_is_shown_as_much_of_a_block_as_fits(method: str, tells: bool) -> None:
    policy = SmallPolicy(3000, TEXTS[method], tells)
    trajectory = await play(method, policy, EchoGenerator("an answer"), **WIDE)
    assert trajectory.truncated
    assert trajectory.stop_reason is StopReason.COMPLETE
    assert any("word word" in "".join(span.text for span in spans) for spans, _ in policy.calls)


async def test_a_dialogue_that_is_full_is_over_and_what_was_kept_is_answered_from() -> None:
    policy = SmallPolicy(3000, [f"{'so ' * 1000}<important_info>[1]</important_info>\n{NEXT}"])
    trajectory = await play("s3", policy, EchoGenerator("an answer"), **WIDE)
    assert trajectory.stop_reason is StopReason.BUDGET
    assert (len(trajectory.documents), trajectory.answer) == (1, "an answer")


@pytest.mark.parametrize(
    ("method", "policy", "generator", "boundary"),
    [
        ("direct", ScriptedPolicy([]), SmallGenerator(10), "generator"),
        ("naive_rag", ScriptedPolicy([]), SmallGenerator(10), "generator"),
        ("s3", SmallPolicy(10, []), EchoGenerator("x"), "searcher"),
        ("deep_retrieval", SmallPolicy(10, [], tells=False), EchoGenerator("x"), "searcher"),
    ],
)
async def test_a_question_that_does_not_fit_by_itself_is_named(
    method: str, policy: ScriptedPolicy, generator: EchoGenerator, boundary: str
) -> None:
    with pytest.raises(BoundaryError) as caught:
        await play(method, policy, generator)
    assert (caught.value.boundary, caught.value.failure, caught.value.field) == (boundary, Failure.TOO_LONG, "question")


async def test_other_failures_are_what_they_were() -> None:
    policy = ScriptedPolicy([])
    policy.complete = refuse  # type: ignore[method-assign]
    with pytest.raises(SearcherError, match="down") as caught:
        await play("s3", policy, EchoGenerator("x"))
    assert caught.value.failure is Failure.UNAVAILABLE


async def refuse(spans: Sequence[Span], sampling: Sampling) -> Completion:
    raise SearcherError(Failure.UNAVAILABLE, "down")


@given(st.lists(st.integers(0, 900), min_size=1, max_size=9), st.integers(0, 3000))
def test_passages_are_cut_alike_and_left_out_only_where_little_would_be_left(lengths: list[int], chars: int) -> None:
    passages = [Passage(str(n), "T", "x" * length) for n, length in enumerate(lengths)]
    kept = tags.shortened(passages, chars)
    assert [passage.id for passage in kept] == [str(n) for n in range(len(kept))]
    shown = [passage.text.count("x") for passage in kept]
    assert sum(shown) <= chars
    if sum(lengths) <= chars:
        assert list(kept) == passages
    if len(kept) > 1:
        cut = [now for now, passage in zip(shown, passages, strict=False) if now < len(passage.text)]
        assert all(now >= tags.LEAST_CHARS for now in cut)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers(1, 1500), st.booleans())
def test_cutting_ends(words: list[int], room: int, tells: bool) -> None:
    passages = [Passage(str(n), f"Title {n}", "word " * count) for n, count in enumerate(words)]
    generator = SmallGenerator(room, tells)
    world = World(ListRetriever(passages), generator=generator)
    with suppress(GeneratorError):
        asyncio.run(AGENTS["naive_rag"].play(Question("q", "what"), world, ANSWER))
    assert generator.refusals < 20
