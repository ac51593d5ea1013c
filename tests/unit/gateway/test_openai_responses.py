"""OpenAI's responses, asked with OpenAI's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseFileSearchToolCall, ResponseOutputMessage, ResponseStreamEvent

from search_agent.errors import Failure, GeneratorError, RetrieverError
from search_agent.types import Completion, FinishReason, Sampling
from tests.fakes import Generator
from tests.unit.gateway.rest import Rest

ITEM = [
    "response.output_item.added",
    "response.file_search_call.in_progress",
    "response.file_search_call.searching",
    "response.file_search_call.completed",
    "response.output_item.done",
]


async def ask(rest: Rest, input: Any = "what stands?", model: str = "s3", **more: Any) -> Response:
    response: Response = await rest.openai.responses.create(model=model, input=input, **more)
    return response


async def stream(rest: Rest, model: str = "s3", **more: Any) -> list[ResponseStreamEvent]:
    events = await rest.openai.responses.create(model=model, input="what stands?", stream=True, **more)
    return [event async for event in events]


async def test_searches_are_items_and_the_message_cites(rest: Rest) -> None:
    response = await ask(rest, instructions="Be brief.", include=["file_search_call.results"])
    *searches, message = response.output
    assert [search.queries for search in searches] == [["what stands?"], ["answer stands"]]  # type: ignore[union-attr]
    second = searches[1]
    assert isinstance(second, ResponseFileSearchToolCall)
    assert [(each.file_id, (each.attributes or {})["kept"]) for each in second.results or ()] == [
        ("w1", True), ("w2", False), ("w3", False),
    ]  # fmt: skip
    assert isinstance(message, ResponseOutputMessage)
    (annotation,) = message.content[0].annotations  # type: ignore[union-attr]
    assert (annotation.type, annotation.url, annotation.title) == ("url_citation", "passage:w1", 'The "Wall" [1]')
    assert response.output_text == "an answer"
    assert (response.status, response.model, response.to_dict()["store"]) == ("completed", "s3", False)
    assert response.usage
    assert response.usage.total_tokens == 54


async def test_results_are_told_to_those_who_ask(rest: Rest) -> None:
    assert [item.results for item in (await ask(rest)).output[:-1]] == [None, None]  # type: ignore[union-attr]


async def test_the_events_of_a_stream(rest: Rest) -> None:
    events = await stream(rest, extra_body={"citations": "text"})
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert [event.type for event in events] == [
        "response.created", "response.in_progress", *ITEM, *ITEM,
        "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.delta", "response.output_text.delta",
        "response.output_text.done", "response.output_text.annotation.added",
        "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    indexes = [event.output_index for event in events if hasattr(event, "output_index")]
    assert indexes == sorted(indexes)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == 'an answer [1]\n\n[1] The "Wall" [1] (w1)'
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert last.response.output == done


async def test_the_clients_own_stream_helper_reads_it(rest: Rest) -> None:
    async with rest.openai.responses.stream(model="naive_rag", input="what stands?") as events:
        final = await events.get_final_response()
    assert final.output_text.strip() == "an answer"


async def test_a_method_without_searches_or_pieces_has_a_message(rest: Rest) -> None:
    (item,) = (await ask(rest, model="direct")).output
    assert item.type == "message"


async def test_earlier_output_is_a_part_of_the_conversation(rest: Rest) -> None:
    first = await ask(rest)
    talk = [{"role": "user", "content": "what stands?"}, *(item.to_dict() for item in first.output)]
    await ask(rest, [*talk, {"role": "user", "content": [{"type": "input_text", "text": "where?"}]}], "naive_rag")
    assert "User: what stands?\nAssistant: an answer" in rest.generator.prompts[-2]


async def test_an_answer_that_was_cut_is_incomplete() -> None:
    class Cut(Generator):
        async def stream(self, messages: Any, sampling: Sampling) -> AsyncIterator[Completion]:
            yield Completion("an", FinishReason.LENGTH, model="echo@1")

    response = await ask(Rest(Cut("")), model="direct", max_output_tokens=1)
    assert response.status == "incomplete"
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"
    assert (await stream(Rest(Cut("")), "direct"))[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, "tools"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"extra_body": {"parameters": {"top_k": 0}}}, "parameters.top_k"),
        ({"input": " "}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
         "input[0].content[0].type"),
        ({"instructions": "x" * 4001}, "instructions"),
    ],
)  # fmt: skip
async def test_what_is_not_supported_is_refused_by_name(rest: Rest, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await ask(rest, **more)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


async def test_fields_without_effect_are_taken(rest: Rest) -> None:
    harmless = {"temperature": 1.0, "metadata": {"a": "b"}, "store": False, "truncation": "auto", "tools": []}
    more = {"reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"], "text": {"verbosity": "low"}}
    assert (await ask(rest, **harmless, **more)).status == "completed"


async def test_failures_before_and_in_a_stream(rest: Rest) -> None:
    rest.generator.error = GeneratorError(Failure.TIMEOUT, "too slow")
    last = (await stream(rest))[-1]
    assert last.type == "response.failed"
    assert last.response.error
    assert (last.response.error.code, last.response.error.message) == ("server_error", "generator: too slow")
    assert [item.type for item in last.response.output] == ["file_search_call"] * 2
    rest.retriever.error = RetrieverError(Failure.UNAVAILABLE, "down")
    with pytest.raises(openai.InternalServerError, match="down"):
        await stream(rest)
    with pytest.raises(openai.NotFoundError):
        await ask(rest, model="gpt-5")
