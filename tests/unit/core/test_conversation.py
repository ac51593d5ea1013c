"""The last question of a conversation, rewritten to stand alone."""

from __future__ import annotations

import pytest

from search_agent.conversation import by_generator, by_searcher, condense
from search_agent.errors import Failure, GeneratorError
from search_agent.testing import EchoGenerator, ScriptedPolicy
from search_agent.types import Completion, Message, Sampling

TALK = [Message("user", "Who built the wall?"), Message("assistant", "Some masons,\nit is said.")]


async def test_generator_and_searcher_read_the_conversation_and_write_a_question() -> None:
    generator, searcher = EchoGenerator("When did the masons live?"), ScriptedPolicy(["Where?"])
    written = await condense(TALK, "When did they live?", by_generator(generator))
    assert (written.text, written.prompt_tokens, written.model) == ("When did the masons live?", 20, "echo@1")
    assert (await condense(TALK, "Where did they live?", by_searcher(searcher))).text == "Where?"
    for prompt in (generator.prompts[0], searcher.calls[0][0][0].text):
        assert "User: Who built the wall?\nAssistant: Some masons, it is said.\n" in prompt


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (" \nWho built it?\nIt was …", "Who built it?"),
        ("<think>who?</think>\nWho built it?", "Who built it?"),
        (" ", "When?"),  # nothing was written
        ("x" * 5000, "x" * 4000),
    ],
)
async def test_the_first_line_is_the_question(text: str, question: str) -> None:
    assert (await condense(TALK, "When?", by_searcher(ScriptedPolicy([text])))).text == question


async def test_a_long_conversation_loses_its_beginning_until_it_fits() -> None:
    prompts: list[str] = []

    async def small(prompt: str, sampling: Sampling) -> Completion:
        prompts.append(prompt)
        if len(prompt) > 2000:
            raise GeneratorError(Failure.TOO_LONG, "too long", "messages")
        return Completion("So?")

    talk = [Message("user", f"message {number} " + "word " * 40) for number in range(100)]
    assert (await condense(talk, "When?", small)).text == "So?"
    assert "message 99" in prompts[-1]
    assert "message 0 " not in prompts[0]
    with pytest.raises(GeneratorError):
        await condense(talk, "why " * 900, small)
