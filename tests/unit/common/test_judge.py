"""The judge's endpoint: what it is asked, and how it fails."""

import json
from collections.abc import Callable

import httpx
import pytest

from common.judge import JudgeEndpoint
from search_agent.errors import Failure, JudgeError
from search_agent.types import Passage, Question

QUESTION = Question("q", "Who?", ("Marie Curie",))


COUNTED = '{"choices": [{"message": {"content": "Yes"}}], "usage": {"total_tokens": %s}}'


def judge(reply: Callable[[httpx.Request], httpx.Response], patience_s: float = 0.1) -> JudgeEndpoint:
    http = httpx.AsyncClient(transport=httpx.MockTransport(reply))
    return JudgeEndpoint(http, "http://judge/v1/", "judge-1", "secret", patience_s)


def said(text: str) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": text}}]})


async def test_the_request() -> None:
    asked: list[httpx.Request] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return said("No")

    assert await judge(reply)(QUESTION, "Mme Curie<|im_end|>") is False
    assert str(asked[0].url) == "http://judge/v1/chat/completions"
    assert asked[0].headers["authorization"] == "Bearer secret"
    body = json.loads(asked[0].content)
    assert body["model"] == "judge-1"
    assert "Mme Curie" in body["messages"][0]["content"]
    assert "<|im_end|>" not in body["messages"][0]["content"]


async def test_a_full_judge_is_asked_again() -> None:
    replies = [httpx.Response(429, headers={"retry-after": "0"})] * 3 + [said("Yes")]
    assert await judge(lambda _: replies.pop(0), 30)(QUESTION, "x") is True


@pytest.mark.parametrize(
    ("response", "failure"),
    [
        (httpx.Response(401, text="bad key secret"), Failure.UNAVAILABLE),
        (httpx.Response(429, headers={"retry-after": "0"}), Failure.OVERLOADED),
        (httpx.Response(200, text="<html>"), Failure.BROKEN),
        (httpx.Response(200, json={"choices": []}), Failure.BROKEN),
        (httpx.Response(200, json={"choices": [{"message": {"content": None}}]}), Failure.BROKEN),
        (said("It depends"), Failure.BROKEN),
        (httpx.Response(200, content=COUNTED % "1e999"), Failure.BROKEN),
    ],
)
async def test_a_judge_that_fails_has_not_said_no(response: httpx.Response, failure: Failure) -> None:
    with pytest.raises(JudgeError) as raised:
        await judge(lambda _: response)(QUESTION, "x")
    assert raised.value.failure is failure
    assert "secret" not in str(raised.value)


async def test_a_judge_that_thinks_first() -> None:
    assert await judge(lambda _: said("<think>\nno difference, so yes\n</think>\n\nYes"))(QUESTION, "x") is True
    cut = {"choices": [{"finish_reason": "length", "message": {"content": None, "reasoning_content": "Well, yes"}}]}
    with pytest.raises(JudgeError, match="still thinking after 2,048 tokens"):
        await judge(lambda _: httpx.Response(200, json=cut))(QUESTION, "x")


async def test_what_a_judge_refuses_is_learned_once() -> None:
    asked: list[set[str]] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(set(json.loads(request.content)))
        for name in ("max_tokens", "temperature"):
            if name in asked[-1]:
                return httpx.Response(400, json={"error": {"message": f"Unsupported parameter: '{name}'"}})
        return said("Yes")

    ours = judge(reply)
    assert await ours(QUESTION, "x") is True
    assert await ours(QUESTION, "y") is True
    assert len(asked) == 4
    assert asked[-1] == {"model", "messages", "max_completion_tokens"}


async def test_a_judge_with_a_small_context_is_asked_for_fewer_tokens() -> None:
    asked: list[int] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["max_tokens"])
        if asked[-1] > 100:
            return httpx.Response(400, json={"error": {"message": f"max_tokens is too large: {asked[-1]}"}})
        return said("Yes")

    ours = judge(reply)
    assert await ours(QUESTION, "x") is True
    assert await ours(QUESTION, "y") is True
    assert asked == [2048, 256, 16, 16]


async def test_a_prompt_too_long_for_the_judge_fails() -> None:
    reply = httpx.Response(400, json={"error": {"message": "maximum context length is 8 tokens"}})
    with pytest.raises(JudgeError, match="maximum context length is 8 tokens"):
        await judge(lambda _: reply)(QUESTION, "x")


async def test_a_judges_reason_is_told_without_the_key() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"error": {"message": "no model\nfor secret"}})

    with pytest.raises(JudgeError, match=r"^the judge answered 400: no model for \*\*\*$"):
        await judge(reply)(QUESTION, "x")


async def test_a_judge_out_of_reach() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("slow")

    with pytest.raises(JudgeError) as raised:
        await judge(reply)(QUESTION, "x")
    assert raised.value.failure is Failure.TIMEOUT


async def test_a_judge_reads_passages_where_no_gold_answer_is_known() -> None:
    prompts: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        prompts.append(json.loads(request.content)["messages"][0]["content"])
        return httpx.Response(200, json={"choices": [{"message": {"content": "Yes"}}], "usage": {"total_tokens": 321}})

    question = Question("q", "Who found radium?", options={"A": "Pierre", "B": "Marie"})
    passages = [Passage("1", "Radium", "Marie Curie found it.<|im_end|>"), Passage("2", "Long", "word " * 10_000)]
    ruling = await judge(reply).by_passages(question, passages, "B: Marie")
    assert (ruling.is_right, ruling.tokens) == (True, 321)
    for part in ("Who found radium?", "A: Pierre", "Marie Curie found it.", "Answer: B: Marie"):
        assert part in prompts[0]
    assert "<|im_end|>" not in prompts[0]
    assert len(prompts[0]) < 26_000


async def test_tokens_are_estimated_where_an_endpoint_does_not_count() -> None:
    ruling = await judge(lambda _: said("No")).by_passages(QUESTION, [Passage("1", "", "x" * 4000)], "x")
    assert 1000 < ruling.tokens < 1200


async def test_tokens_of_a_reply_that_is_no_verdict_are_told() -> None:
    ruling = await judge(lambda _: said("Perhaps")).by_passages(QUESTION, [Passage("1", "", "x" * 4000)], "x")
    assert ruling.tokens > 1000
    with pytest.raises(JudgeError):
        _ = ruling.is_right


async def test_a_count_of_tokens_that_cannot_be_is_estimated() -> None:
    ruling = await judge(lambda _: httpx.Response(200, content=COUNTED % "-3")).by_passages(
        QUESTION, [Passage("1", "", "x" * 4000)], "x"
    )
    assert ruling.tokens >= 1000
