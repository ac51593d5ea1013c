"""OpenAI's chat completions, asked with OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from common.keys import FileKeys, Limits, Scope, make
from search_agent.agents import AGENTS
from search_agent.errors import Failure, GeneratorError, RetrieverError
from search_agent.types import Completion, FinishReason, Message, Sampling
from services.gateway.counters import MemoryCounters
from services.gateway.door import Rules
from services.gateway.limits import Meter
from services.gateway.methods import Configuration
from services.gateway.problems import HTTP_STATUS
from tests.fakes import Generator
from tests.unit.gateway.rest import Rest

QUESTION = [{"role": "user", "content": "what stands?"}]
QUICK = {"team/quick": Configuration("s3", {"max_turns": 1, "top_k": 2})}


@pytest.fixture
async def rest() -> AsyncIterator[Rest]:
    gateway = Rest(configurations=QUICK)
    async with gateway.http:
        yield gateway


async def ask(rest: Rest, messages: Any = QUESTION, model: str = "s3", **more: Any) -> ChatCompletion:
    return await rest.openai.chat.completions.create(model=model, messages=messages, **more)


async def test_an_answer_with_its_citation_and_usage(rest: Rest) -> None:
    completion = await ask(rest)
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "an answer", "stop")
    (annotation,) = choice.message.annotations or ()
    cited = annotation.url_citation
    assert (cited.title, cited.url, cited.passage_id) == ('The "Wall" [1]', "passage:w1", "w1")  # type: ignore[attr-defined]
    assert "an answer"[cited.start_index : cited.end_index] == "an answer"
    assert completion.usage
    tokens = completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens
    assert tokens == (40, 14, 54)  # of the searcher's two turns and the generator
    assert completion.model == "s3"


async def test_citations_as_text_stand_under_the_answer_and_are_where_the_annotations_say(rest: Rest) -> None:
    message = (await ask(rest, extra_body={"citations": "text"})).choices[0].message
    assert message.content == 'an answer [1]\n\n[1] The "Wall" [1] (w1)'
    (annotation,) = message.annotations or ()
    assert message.content[annotation.url_citation.start_index : annotation.url_citation.end_index] == "[1]"


@pytest.mark.parametrize("citations", ["annotations", "text"])
async def test_a_stream_says_the_same(rest: Rest, citations: str) -> None:
    whole = (await ask(rest, model="naive_rag", extra_body={"citations": citations})).choices[0].message
    stream = await rest.openai.chat.completions.create(
        model="naive_rag",
        messages=QUESTION,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"citations": citations},
    )
    chunks = [chunk async for chunk in stream]
    *answering, last = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert answering[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in answering)
    assert text.split() == (whole.content or "").split()
    assert [chunk.choices[0].finish_reason for chunk in answering] == [None] * (len(answering) - 1) + ["stop"]
    (annotation,) = next(a for chunk in answering if (a := getattr(chunk.choices[0].delta, "annotations", None)))
    place = annotation["url_citation"]
    marked = text[place["start_index"] : place["end_index"]]
    assert marked == ("[1]" if citations == "text" else "an answer")
    assert (last.choices, last.usage and last.usage.completion_tokens) == ([], 4)
    assert all(chunk.usage is None for chunk in answering)


async def test_the_stream_ends_in_done_and_has_no_usage_unless_asked(rest: Rest) -> None:
    response = await rest.post("/v1/chat/completions", model="direct", messages=QUESTION, stream=True)
    *chunks, end, rest_of_it = response.text.split("\n\n")
    assert (end, rest_of_it) == ("data: [DONE]", "")
    assert all("usage" not in json.loads(chunk.removeprefix("data: ")) for chunk in chunks)


async def test_models_are_methods_and_configurations(rest: Rest) -> None:
    listed = [model.id async for model in await rest.openai.models.list()]
    assert listed == [*AGENTS, "team/quick"]
    assert (await rest.openai.models.retrieve("team/quick")).id == "team/quick"
    for call in (rest.openai.models.retrieve("gpt-5"), ask(rest, model="gpt-5")):
        with pytest.raises(openai.NotFoundError) as caught:
            await call
        assert caught.value.param == "model"


async def test_a_configuration_brings_its_parameters_and_a_request_may_replace_them(rest: Rest) -> None:
    await ask(rest, model="team/quick")
    await ask(rest, model="team/quick", extra_body={"parameters": {"top_k": 3}})
    await rest.post("/v1/answer", question="what stands?", method="team/quick")
    assert [how.top_k for how in rest.retriever.asked] == [2, 3, 2]


async def test_instructions_reach_the_generator_and_not_the_search() -> None:
    heard: list[Message] = []

    class Hearing(Generator):
        async def stream(self, messages: Any, sampling: Sampling) -> AsyncIterator[Completion]:
            heard.extend(messages)
            async for piece in super().stream(messages, sampling):
                yield piece

    rest = Rest(Hearing("an answer"))
    system = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Speak Latin."}]
    await ask(rest, [*system, *QUESTION], model="naive_rag")
    assert heard[0] == Message("system", "Be brief.\n\nSpeak Latin.")
    assert heard[1].role == "user"
    assert rest.retriever.queries == ["what stands?"]


TALK = [
    {"role": "user", "content": "Who built the wall?"},
    {"role": "assistant", "content": "Some masons."},
    {"role": "user", "content": [{"type": "text", "text": "When did"}, {"type": "text", "text": "they live?"}]},
]


async def test_the_question_of_a_conversation_is_rewritten_before_the_search() -> None:
    rest = Rest(Generator("When did the masons live?"))
    completion = await ask(rest, TALK, model="naive_rag")
    assert rest.retriever.queries == ["When did the masons live?"]
    assert "User: Who built the wall?\nAssistant: Some masons." in rest.generator.prompts[0]
    assert "When did\nthey live?" in rest.generator.prompts[0]
    assert completion.usage
    assert completion.usage.prompt_tokens == 40  # two generations of 20


async def test_without_condensing_the_last_message_is_the_question() -> None:
    rest = Rest(condense=False)
    await ask(rest, TALK, model="naive_rag")
    assert rest.retriever.queries == ["When did\nthey live?"]
    assert len(rest.generator.prompts) == 1


async def test_a_short_answer_that_was_cut_says_length() -> None:
    class Cut(Generator):
        async def stream(self, messages: Any, sampling: Sampling) -> AsyncIterator[Completion]:
            self.samplings.append(sampling)
            yield Completion("an", FinishReason.LENGTH, model="echo@1")

    rest = Rest(Cut(""))
    assert (await ask(rest, model="direct", max_completion_tokens=3)).choices[0].finish_reason == "length"
    await ask(rest, model="direct", max_tokens=1000)
    assert [sampling.max_tokens for sampling in rest.generator.samplings] == [3, 8]


@pytest.mark.parametrize(
    "harmless",
    [
        {"temperature": 0.7, "top_p": 0.9, "seed": 1, "user": "me", "metadata": {"a": "b"}, "presence_penalty": 1},
        {"n": 1, "tools": [], "tool_choice": "auto", "logprobs": False, "response_format": {"type": "text"}},
        {"store": False, "stop": None, "logit_bias": {}, "parallel_tool_calls": False, "reasoning_effort": "low"},
    ],
)
async def test_fields_without_effect_are_taken(rest: Rest, harmless: dict[str, Any]) -> None:
    assert (await ask(rest, model="naive_rag", **harmless)).choices[0].message.content == "an answer"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stop": ["x"]}, "stop"),
        ({"store": True}, "store"),
        ({"extra_body": {"top_k": 3}}, "top_k"),
        ({"extra_body": {"parameters": {"top_k": 0}}}, "parameters.top_k"),
        ({"extra_body": {"citations": "none"}}, "citations"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "so"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "so", "tool_call_id": "1"}, *QUESTION]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}, *QUESTION]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x" * 4001}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
         "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "system", "content": "x" * 4001}, *QUESTION]}, "messages"),
    ],
)  # fmt: skip
async def test_what_is_not_supported_is_refused_by_name(rest: Rest, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await ask(rest, **more)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


async def test_half_a_character_is_refused_wherever_it_is_said(rest: Rest) -> None:
    talk = [{"role": "assistant", "content": "\ud800"}, *QUESTION]  # the `openai` package cannot send it
    content, kind = json.dumps({"model": "s3", "messages": talk}), {"content-type": "application/json"}
    response = await rest.http.post("/v1/chat/completions", content=content, headers=kind)
    assert (response.status_code, response.json()["error"]["param"]) == (422, "messages[0].content")


@pytest.mark.parametrize("failure", [each for each in Failure if each is not Failure.TOO_LONG])
async def test_a_failed_backend_has_its_status_and_openais_shape(rest: Rest, failure: Failure) -> None:
    rest.retriever.error = RetrieverError(failure, "it is so", "mode")
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(rest)
    assert caught.value.status_code == HTTP_STATUS[failure]
    assert (caught.value.code, caught.value.param) == (failure, "parameters.mode")
    assert caught.value.type == ("invalid_request_error" if HTTP_STATUS[failure] < 500 else "server_error")
    assert ("retry-after" in caught.value.response.headers) == (HTTP_STATUS[failure] == 503)


async def test_keys_and_limits_are_openais_errors_too(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "keys.json")
    rest = Rest(rules=Rules(keys, Meter(MemoryCounters())))
    with pytest.raises(openai.AuthenticationError, match="the key is not known"):
        await ask(rest)
    (reader, reads), (asker, asks) = (
        make("a", [Scope.TRAIN]),
        make("b", [Scope.ASK], limits=Limits(requests_per_minute=1)),
    )
    await keys.add(reader)
    await keys.add(asker)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        await rest.openai.with_options(api_key=reads).chat.completions.create(model="s3", messages=QUESTION)  # type: ignore[arg-type]
    assert refused.value.code == "forbidden"
    client = rest.openai.with_options(api_key=asks)
    assert (await client.responses.create(model="direct", input="what?")).output_text == "an answer"
    with pytest.raises(openai.RateLimitError) as limited:
        await client.responses.create(model="direct", input="what?")
    assert int(limited.value.response.headers["retry-after"]) > 0


async def test_a_failure_in_a_stream_is_raised_by_the_client(rest: Rest) -> None:
    rest.generator.error = GeneratorError(Failure.TIMEOUT, "too slow")
    stream = await rest.openai.chat.completions.create(model="s3", messages=QUESTION, stream=True)  # type: ignore[arg-type]
    with pytest.raises(openai.APIError, match="too slow") as caught:
        [chunk async for chunk in stream]
    assert caught.value.code == "timeout"


async def test_a_crash_keeps_its_secrets(rest: Rest) -> None:
    rest.retriever.error = RuntimeError("secret detail")  # type: ignore[assignment]
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(rest)
    assert "secret" not in caught.value.message
    assert caught.value.type == "server_error"


# What open-webui's backend sends, with the bodies of its side requests shortened.
WEBUI_PARAMS = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 512, "frequency_penalty": 0.1, "seed": 7}
WEBUI_TASK = (
    "### Task:\nGenerate a concise title.\n### Output:\nJSON\n<chat_history>\nUSER: what stands?\n</chat_history>"
)


async def test_open_webui_lists_the_models(rest: Rest) -> None:
    listed = (await rest.http.get("/v1/models", headers={"Authorization": "Bearer "})).json()
    assert all(model["id"] and model["object"] == "model" for model in listed["data"])


async def test_open_webui_chats(rest: Rest) -> None:
    messages = [{"role": "system", "content": "User's name is Ada."}, *TALK]
    response = await rest.post(
        "/v1/chat/completions", model="s3", messages=messages, stream=True,
        stream_options={"include_usage": True}, **WEBUI_PARAMS,
    )  # fmt: skip
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert said.strip() == "an answer"
    sources = [
        each for chunk in chunks if chunk["choices"] for each in chunk["choices"][0]["delta"].get("annotations", [])
    ]
    assert [source["url_citation"]["title"] for source in sources] == ['The "Wall" [1]']
    assert chunks[-1]["usage"]["total_tokens"]


async def test_open_webui_asks_for_a_title_or_tags(rest: Rest) -> None:
    body = {"model": "direct", "messages": [{"role": "user", "content": WEBUI_TASK}], "stream": False}
    for more in ({"max_completion_tokens": 1000}, {}):
        response = await rest.post("/v1/chat/completions", **body, **more)
        assert response.json()["choices"][0]["message"]["content"] == "an answer"
    assert rest.retriever.queries == []
